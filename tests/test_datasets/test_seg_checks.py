"""Bad images and label maps are named in one sentence, and good ones of any kind pass."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from castling_det.datasets.checks import check_datasets, report_datasets
from castling_det.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
CLASSES = ('cat', 'dog', 'sheep')


def write_labels(folder: Path, name: str, numbers, mode: str = 'L') -> None:
    image = Image.fromarray(np.asarray(numbers, np.uint8))
    if mode == 'P':
        image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    elif mode != 'L':
        image = image.convert(mode)
    image.save(folder / 'labels' / f'{name}.png')


def numbers(low: int = 0, high: int = 3, shape=(24, 40)) -> np.ndarray:
    """A label map that holds every number from ``low`` up to, and without, ``high``."""
    return np.arange(np.prod(shape)).reshape(shape) % (high - low) + low


@pytest.fixture
def folder(tmp_path):
    """Two images of 40x24 with grey label maps of the numbers 0, 1, 2."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    for name in 'ab':
        Image.new('RGB', (40, 24), (90, 80, 70)).save(tmp_path / 'images' / f'{name}.jpg')
        write_labels(tmp_path, name, numbers())
    return tmp_path


def config(folder: Path, **changes) -> Config:
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    return Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset | changes)))


def report(folder: Path, decode: bool = True, **changes):
    (found,) = report_datasets(config(folder, **changes), ['train'], decode)
    return found


def only_error(folder: Path, **changes) -> str:
    (error,) = report(folder, **changes).errors
    assert '\n' not in str(error)
    return str(error)


@pytest.mark.parametrize('mode', ['L', 'P'])
def test_grey_and_palette_label_maps_are_valid(folder, mode):
    for name in 'ab':
        write_labels(folder, name, numbers(), mode)
    found = report(folder)
    assert (found.errors, found.warnings) == ([], [])
    assert (found.images, found.label_maps) == (2, 2)
    assert found.pixels == {'cat': 640, 'dog': 640, 'sheep': 640}
    assert 'cat 33.3%, dog 33.3%, sheep 33.3%' in str(found)


def test_the_number_that_is_ignored_is_no_class(folder):
    write_labels(folder, 'a', np.where(numbers() == 1, 255, numbers()))
    found = report(folder)
    assert found.errors == []
    assert 'ignored 16.7%' in str(found)


def test_another_size_than_the_image(folder):
    write_labels(folder, 'b', numbers(shape=(20, 40)))
    message = only_error(folder)
    assert '1 of 2 images' in message and 'have another size than their annotation' in message
    assert 'b.jpg is 40x24, not 40x20' in message


def test_a_number_that_is_no_class(folder):
    write_labels(folder, 'a', np.where(numbers() == 1, 7, numbers()))
    message = only_error(folder)
    assert 'hold 7, which are no class: 3 classes are 0 to 2' in message
    assert '255 is ignored' in message and 'metainfo.classes' in message


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'I;16'])
def test_a_label_map_that_is_not_one_byte_a_pixel(folder, mode):
    write_labels(folder, 'b', numbers(), mode)
    message = only_error(folder)
    assert 'no 8-bit grey or palette images' in message and f'b.png is {mode}' in message


def test_missing_pairs_are_counted(folder):
    for number in range(7):
        Image.new('RGB', (40, 24)).save(folder / 'images' / f'extra{number}.jpg')
    write_labels(folder, 'alone', numbers())
    found = report(folder)
    (error,) = found.errors
    assert isinstance(error, InputError)
    assert f'7 of 9 label maps are missing in {folder}/labels' in str(error)
    names = ', '.join(f'extra{number}.png' for number in range(5))
    assert f'({names}, ...)' in str(error)
    assert 'train_dataloader.dataset.data_prefix.seg_map_path' in str(error)
    assert found.label_maps == 2 and not found.warnings  # one without an image is not used


def test_folders_and_endings(folder):
    assert 'does not exist' in only_error(
        folder, data_prefix=dict(img_path='images', seg_map_path='annotations')
    )
    assert 'holds no *.tif' in only_error(folder, img_suffix='.tif')
    assert 'list' in only_error(folder, ann_file='train.txt')


@pytest.mark.parametrize(
    ('encoding', 'said'),
    [
        ('utf-16', 'is no UTF-8 ('),
        ('utf-8-sig', 'begins with a byte order mark: save it as UTF-8 without one'),
    ],
)
def test_lists_of_another_encoding(folder, encoding, said):
    (folder / 'train.txt').write_text('a\nb', encoding)
    assert f'train.txt {said}' in only_error(folder, ann_file='train.txt')


def test_list_of_whole_paths(folder):
    """mmseg looks for the label map beside the image then."""
    (folder / 'train.txt').write_text(f'{folder}/images/a\nb')
    message = only_error(folder, ann_file='train.txt')
    assert '1 of 2 label maps are missing in ' in message and f'({folder}/images/a.png)' in message


def test_unreadable_files(folder):
    Image.new('RGB', (40, 24)).save(folder / 'images' / 'c.jpg')
    (folder / 'images' / 'a.jpg').write_text('no image')
    (folder / 'labels' / 'b.png').write_bytes(b'')
    write_labels(folder, 'c', numbers())
    labels, images = (str(error) for error in report(folder, decode=False).errors)
    assert '1 of 3 label maps cannot be read' in labels and 'b.png' in labels
    assert '1 of 2 images' in images and 'cannot be read' in images and 'a.jpg' in images


def test_zero_label_is_a_class_of_ours_but_to_be_ignored(folder):
    """Numbers from 0, marked by 255, and reduce_zero_label=True: one class is lost, one shifted."""
    write_labels(folder, 'a', np.where(numbers() == 1, 255, numbers()))
    (warning,) = report(folder, reduce_zero_label=True).warnings
    assert 'ignores 0, which has 33% of the pixels' in warning
    assert 'set train_dataloader.dataset.reduce_zero_label=False' in warning


def test_zero_label_is_a_class_where_nothing_is_ignored(folder):
    """Three numbers for three classes, and reduce_zero_label=True; with a fourth it is right."""
    (warning,) = report(folder, reduce_zero_label=True).warnings
    assert 'the numbers 0 to 2 are one for each class: if 0 is a class' in warning
    write_labels(folder, 'a', numbers(0, 4))
    assert report(folder, reduce_zero_label=True).warnings == []


def test_zero_label_is_unlabelled_but_taken_for_a_class(folder):
    write_labels(folder, 'a', numbers(0, 4))
    message = only_error(folder)
    assert 'hold 3, which are no class' in message and '0 has 29% of the pixels' in message
    assert 'set train_dataloader.dataset.reduce_zero_label=True' in message
    assert report(folder, reduce_zero_label=True).errors == []


def test_no_pixel_is_zero(folder):
    for name in 'ab':
        write_labels(folder, name, numbers(1, 3))
    (warning,) = report(folder).warnings
    assert "makes 0 the class 'cat'" in warning and 'the numbers are 1 to 2' in warning
    (warning,) = report(folder, reduce_zero_label=True).warnings
    assert '1 of 3 classes have no pixel (sheep)' in warning


def test_a_subset_of_the_classes_of_a_data_set(folder):
    """mmseg ignores the other classes, whose numbers are therefore no error."""
    write_labels(folder, 'a', numbers(0, 151))
    found = report(folder, type='ADE20KDataset', metainfo=dict(classes=('wall', 'sky')))
    assert found.errors == []


def test_every_label_map_is_counted_and_the_wrong_ones_are_named(folder):
    for number in range(40):
        Image.new('RGB', (40, 24)).save(folder / 'images' / f'c{number}.jpg')
        write_labels(folder, f'c{number}', numbers())
    write_labels(folder, 'c7', np.full((24, 40), 7))
    found = report(folder, decode=False)
    assert found.label_maps == 42
    assert '1 label maps (c7.png) hold 7, which are no class' in str(found.errors[0])


def test_a_class_without_a_pixel(folder):
    found = report(folder, metainfo=dict(classes=(*CLASSES, 'road')))
    assert 'sheep 33.3%, road 0.0%' in str(found)
    (warning,) = found.warnings
    assert '1 of 4 classes have no pixel (road)' in warning and '255' not in warning


def test_a_mask_of_0_and_255(folder):
    for name in 'ab':
        write_labels(folder, name, numbers(0, 2) * 255)
    absent, share = report(folder, metainfo=dict(classes=('ground', 'roof'))).warnings
    assert '(roof)' in absent and '255 is ignored: if it is meant as one of them' in absent
    assert share.startswith('50% of the pixels are ignored, and 0 of 2 label maps')


def test_a_mask_of_one_bit(folder):
    for name in 'ab':
        Image.fromarray(numbers(0, 2) > 0).save(folder / 'labels' / f'{name}.png')
    found = report(folder, metainfo=dict(classes=('ground', 'roof')))
    assert found.pixels == dict(ground=960, roof=960) and not found.errors + found.warnings


@pytest.mark.parametrize(('number', 'reduced'), [(255, False), (0, True)])
def test_all_is_ignored(folder, number, reduced):
    write_labels(folder, 'a', np.full((24, 40), number))
    found = report(folder, reduce_zero_label=reduced)
    assert '1 of 2 label maps as a whole (a.png)' in found.warnings[-1] and not found.errors
    write_labels(folder, 'b', np.full((24, 40), number))
    message = only_error(folder, reduce_zero_label=reduced)
    assert f'all pixels of 2 label maps are ignored ({number}), and there is nothing' in message


@pytest.mark.parametrize(('low', 'high'), [(0, 1), (0, 2), (1, 3)])
def test_one_class_alone(folder, low, high):
    for name in 'ab':
        write_labels(folder, name, np.where(numbers() == 2, 255, numbers(low, high)))
    message = only_error(folder, metainfo=dict(classes=('roof',)))
    assert "has 'roof' alone, which softmax gives to every pixel" in message
    assert "classes=('background', 'roof') and num_classes=2" in message
    assert "with 0 for it and 1 for 'roof'" in message and 'reduce_zero_label' not in message


def test_one_channel_under_softmax(folder):
    cfg = config(folder)
    cfg.model = dict(auxiliary_head=[dict(num_classes=3, out_channels=1, loss_decode=dict())])
    (error,) = report_datasets(cfg, ['train'])[0].errors
    assert str(error).startswith('model.auxiliary_head.0.out_channels is 1')
    cfg.model.auxiliary_head[0].loss_decode.use_sigmoid = True
    assert not report_datasets(cfg, ['train'])[0].errors


def test_test_images_without_label_maps(folder):
    cfg = config(folder, data_prefix=dict(img_path='images'))
    cfg.test_dataloader = cfg.pop('train_dataloader')
    cfg.test_evaluator = dict(type='IoUMetric', format_only=True)
    message = str(report_datasets(cfg, ['test'])[0].errors[0])
    assert 'folder None does not exist' in message and 'load no label maps' in message
    del cfg.test_dataloader.dataset.pipeline[1]
    (found,) = check_datasets(cfg, ['test'], decode=True)
    assert '2 images, 0 label maps: no metric' in str(found)
    (folder / 'images' / 'a.jpg').write_text('no image')
    assert 'cannot be read' in str(report_datasets(cfg, ['test'])[0].errors[0])


def test_classes_that_a_data_set_does_not_know(folder):
    message = only_error(folder, type='ADE20KDataset', metainfo=dict(classes=('wall', 'skyy')))
    assert 'train_dataloader.dataset: ' in message and "'skyy'" in message


def test_training_is_refused(folder):
    write_labels(folder, 'b', numbers(shape=(20, 40)))
    with pytest.raises(ValueError, match='another size'):
        check_datasets(config(folder), ['train'])


def test_crops_of_another_size_than_the_model_expects(folder):
    """Also inside of a wrapper, and in a data set that is not checked otherwise."""
    cfg = config(folder, pipeline=[dict(type='RandomCrop', crop_size=(24, 40))])
    cfg.model = dict(data_preprocessor=dict(size=(24, 40)))
    (found,) = report_datasets(cfg, ['train'])
    assert found.errors == []
    cfg.model.data_preprocessor.size = (48, 40)
    loader = cfg.train_dataloader
    loader.dataset = dict(type='RepeatDataset', times=2, dataset=loader.dataset)
    loader.dataset.dataset.type = 'CityscapesDataset'
    (found,) = report_datasets(cfg, ['train'])
    (error,) = found.errors
    place = 'train_dataloader.dataset.dataset.pipeline.0.crop_size'
    assert str(error).startswith(f'{place}: 40x24 px is not the 40x48 px of model.data_prep')


def test_a_palette_of_other_classes(folder):
    metainfo = dict(classes=CLASSES, palette=[[0, 0, 0]] * 11)
    message = only_error(folder, metainfo=metainfo)
    assert 'train_dataloader.dataset.metainfo has 3 classes and a palette of 11' in message
    assert '_delete_=True' in message


def test_class_weights_of_another_number_of_classes(folder):
    cfg = config(folder)
    queries = dict(num_classes=3, loss_cls=dict(class_weight=[1.0, 1.0, 1.0, 0.1]))
    pixels = dict(num_classes=3, loss_decode=dict(class_weight=[1.0, 1.0, 1.0]))
    cfg.model = dict(decode_head=queries, auxiliary_head=pixels)
    assert report_datasets(cfg, ['train'])[0].errors == []
    queries['loss_cls']['class_weight'].append(0.1)
    pixels['loss_decode']['class_weight'].append(1.0)
    pixels['loss_edge'] = dict(class_weight=[1.0, 2.0])  # of other classes than the data's
    cfg.model = dict(decode_head=queries, auxiliary_head=pixels)
    first, second = map(str, report_datasets(cfg, ['train'])[0].errors)
    assert 'model.decode_head.loss_cls.class_weight has 5 numbers' in first
    assert first.endswith('to be 4') and second.endswith('to be 3')


@pytest.mark.data('seg/ade20k_tiny', 'seg/camvid', 'seg/coco133')
@pytest.mark.parametrize(
    ('config_name', 'folder_name', 'images', 'absent'),
    [
        (
            'castling_mask2former/castling-mask2former_vit-b-p16_8xb2-160k_ade20k-640x640',
            'ade20k_tiny',
            3,
            132,
        ),
        ('castling_seg/castling-segformer_vit-nano_1xb4-1500i_camvid-192x256', 'camvid', 367, 0),
        (
            'castling_mask2former/castling-mask2former-nano_vit-nano_1xb4-1500i_coco133-256x256',
            'coco133',
            100,
            14,
        ),
    ],
)
def test_real_data_passes(data_root, config_name, folder_name, images, absent):
    cfg = Config.fromfile(CONFIGS / f'{config_name}.py')
    cfg.train_dataloader.dataset.data_root = str(data_root / 'seg' / folder_name)
    (found,) = check_datasets(cfg, ['train'])
    assert found.images == found.label_maps == images
    assert [warning.split()[0] for warning in found.warnings] == [str(absent)] * (absent > 0)
