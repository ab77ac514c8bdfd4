"""Bad class folders and lists are named in one sentence, and good ones are counted."""

import shutil
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from castling_det.datasets.checks import report_datasets
from castling_det.datasets.image_files import SAMPLE
from castling_det.datasets.loading import LoadReadableImage

CLASSES = ('cat', 'dog', 'sheep')
LEAF = next(Path(__file__).parents[2].glob('configs/castling_cls/castling-cls_deit-t_*.py'))


@pytest.fixture
def folder(tmp_path):
    """Two images a class in both splits."""
    for split in ('train', 'val'):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new('RGB', (40, 24)).save(tmp_path / split / name / f'{number}.jpg')
    return tmp_path


def config(folder: Path, model: dict | None = None, **changes) -> Config:
    loading = [dict(type='LoadImageFromFile')]
    dataset = dict(
        type='CustomDataset',
        data_root=str(folder),
        metainfo=dict(classes=CLASSES),
        pipeline=loading,
    )
    loaders = {
        f'{split}_dataloader': dict(dataset=dict(dataset, data_prefix=split) | changes)
        for split in ('train', 'val')
    }
    return Config(dict(default_scope='mmpretrain', model=model or {}, **loaders))


def errors(folder: Path, model: dict | None = None, **changes) -> list[str]:
    reports = report_datasets(config(folder, model, **changes), ['train', 'val'], decode=True)
    return [str(error) for report in reports for error in report.errors]


def test_good_folders_are_counted(folder):
    train, val = report_datasets(config(folder), ['train', 'val'])
    assert train.labels == val.labels == dict.fromkeys(CLASSES, 2)
    assert not train.errors + val.errors + train.warnings + val.warnings
    assert str(train).splitlines()[1:] == ['  6 images', '  cat 2, dog 2, sheep 2']


def test_before_a_training_a_sample_of_its_images_is_decoded(tmp_path, monkeypatch):
    """Of the others the header is read: ImageNet has 1.28 million. Where it lies, one decodes."""
    decoded = []
    transform = LoadReadableImage.transform
    monkeypatch.setattr(
        LoadReadableImage,
        'transform',
        lambda self, results: decoded.append(results) or transform(self, results),
    )
    for name in CLASSES:
        (tmp_path / 'train' / name).mkdir(parents=True)
        for number in range(20):
            Image.new('RGB', (4, 4)).save(tmp_path / 'train' / name / f'{number:02}.png')
    (tmp_path / 'train' / 'dog' / '05.png').write_bytes(b'no image')
    (report,) = report_datasets(config(tmp_path), ['train'])
    assert len(decoded) == SAMPLE + 1
    assert 'cannot be read' in str(report.errors[0]) and 'dog/05.png' in str(report.errors[0])


def test_good_list_is_counted(folder):
    lines = ['train/cat/0.jpg 0', 'val/dog/1.jpg 1', 'train/dog/0.jpg 1']
    (folder / 'list.txt').write_text('\n'.join(lines))
    train, val = report_datasets(
        config(folder, ann_file='list.txt', data_prefix=''), ['train', 'val']
    )
    assert train.labels == val.labels == dict(cat=1, dog=2) and train.images == 3


def test_images_without_labels(folder):
    """All below a folder, or those of a list; the classes of the model mean nothing to them."""
    (folder / 'list.txt').write_text('train/cat/0.jpg\nval/dog/1.jpg')
    unlabelled = dict(with_label=False, metainfo=dict())
    for changes, number in ((dict(data_prefix=''), 12), (dict(ann_file='list.txt'), 2)):
        cfg = config(folder, **unlabelled, **dict(data_prefix='') | changes)
        (report,) = report_datasets(cfg, ['train'], decode=True)
        assert str(report).splitlines()[1:] == [f'  {number} images without labels']
    (folder / 'list.txt').write_text('train/cat/7.jpg')
    (error, _) = errors(folder, **unlabelled, data_prefix='', ann_file='list.txt')
    assert '1 of 1 images of ' in error and 'train/cat/7.jpg' in error
    (folder / 'empty').mkdir()
    (error, _) = errors(folder, **unlabelled, data_prefix='empty')
    assert 'empty holds no image (' in error


def test_a_folder_too_few_or_too_many(folder):
    shutil.rmtree(folder / 'val' / 'dog')
    (error,) = errors(folder)
    assert 'val has 2 folders, but val_dataloader.dataset.metainfo has 3 classes' in error
    assert 'classes without a folder: dog: let each' in error
    for name in ('dog', 'wolf'):
        (folder / 'val' / name).mkdir()
        Image.new('RGB', (8, 8)).save(folder / 'val' / name / '0.jpg')
    (error,) = errors(folder)
    assert 'has 4 folders' in error and 'folders that are no class: wolf: let each' in error


def test_folders_that_differ_between_splits(folder):
    (folder / 'val' / 'dog').rename(folder / 'val' / 'dogs')
    (error,) = errors(folder)
    assert 'val and ' in error and 'have different classes (dog, dogs)' in error


def test_classes_in_another_order_than_their_folders(folder):
    first, second = errors(folder, metainfo=dict(classes=('dog', 'cat', 'sheep')))
    assert "write ('cat', 'dog', 'sheep')" in first and "write ('cat', 'dog', 'sheep')" in second


@pytest.mark.parametrize(
    ('classes', 'is_right'),
    [
        (('dog', 'cat', 'Sheep'), False),
        (('sheep', 'cat', 'other'), False),
        (('cat', 'Dog', 'sheep'), True),
        (('Katze', 'Hund', 'Schaf'), True),
    ],
)
def test_classes_that_are_called_otherwise_than_their_folders(folder, classes, is_right):
    found = errors(folder, metainfo=dict(classes=classes))
    assert is_right == (not found)
    assert all("write ('cat', 'dog', 'sheep')" in error for error in found)


@pytest.mark.parametrize('with_label', [True, False])
@pytest.mark.parametrize(
    ('encoding', 'said'),
    [
        ('utf-16', 'is no UTF-8 ('),
        ('cp1252', 'is no UTF-8 ('),
        ('utf-8-sig', 'begins with a byte order mark: save it as UTF-8 without one'),
        ('utf-8', None),
    ],
)
def test_lists_of_another_encoding(folder, encoding, said, with_label):
    line = 'train/cat/é.jpg 0' if with_label else 'train/cat/é.jpg'
    (folder / 'train' / 'cat' / '0.jpg').rename(folder / 'train' / 'cat' / 'é.jpg')
    (folder / 'list.txt').write_text(line, encoding)
    found = errors(folder, data_prefix='', ann_file='list.txt', with_label=with_label)
    assert bool(found) == bool(said)
    assert all(f'list.txt {said}' in error for error in found)


def test_list_of_whole_paths(folder):
    """As scripts write them; mmpretrain takes them as they are."""
    (folder / 'list.txt').write_text(f'{folder}/val/cat/0.jpg 0\ndog/0.jpg 1')
    train, val = report_datasets(config(folder, ann_file='list.txt'), ['train', 'val'], decode=True)
    assert not train.errors + val.errors and train.images == 2
    (folder / 'list.txt').write_text(f'{folder}/other/cat/7.jpg 0\ndog/0.jpg 1')
    (error, _) = errors(folder, ann_file='list.txt')
    assert '1 of 2 images of ' in error and f'({folder}/other/cat/7.jpg)' in error


def test_hidden_files_fill_no_class(folder):
    """mmpretrain leaves them out; a Mac writes one beside each image."""
    for file in (folder / 'train' / 'dog').iterdir():
        file.rename(file.with_name(f'._{file.name}'))
    (error,) = errors(folder)
    assert error.startswith(f'dog in {folder}/train holds no image (')


def test_an_empty_class_and_a_file_that_is_no_image(folder):
    for file in (folder / 'train' / 'sheep').iterdir():
        file.rename(file.with_suffix('.txt'))
    (folder / 'val' / 'cat' / '1.jpg').write_text('no image')
    empty, unreadable = errors(folder)
    assert 'sheep in ' in empty and 'holds no image (' in empty
    assert '1 of 6 images in ' in unreadable and 'cannot be read' in unreadable
    assert 'cat/1.jpg' in unreadable


def test_a_list_of_missing_files_and_of_wrong_numbers(folder):
    (folder / 'list.txt').write_text('cat/0.jpg 0\ncat/7.jpg 0\n')
    for split, error in zip(('train', 'val'), errors(folder, ann_file='list.txt'), strict=True):
        assert '1 of 2 images of ' in error and f'are missing in {folder}/{split} (cat/7' in error
    (folder / 'list.txt').write_text('cat/0.jpg 0\ncat/1.jpg 3\n')
    assert "list.txt, line 2 is 'cat/1.jpg 3': write" in errors(folder, ann_file='list.txt')[0]
    assert 'list ' in errors(folder, ann_file='other.txt')[0]


def test_imagenet_has_two_classes_of_one_name(folder):
    """Its folders are numbers, and the names are those of the data set's type."""
    for split in ('train', 'val'):
        for number in range(1000):
            (folder / 'imagenet' / split / f'n{number:08d}').mkdir(parents=True)
            shutil.copy(
                folder / 'val' / 'cat' / '0.jpg', folder / 'imagenet' / split / f'n{number:08d}'
            )
    cfg = Config.fromfile(LEAF)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(folder / 'imagenet')
    train, val = report_datasets(cfg, ['train', 'val'])
    assert not train.errors + val.errors
    assert train.images == val.images == len(train.labels) == 1000


def test_missing_folder(folder):
    shutil.rmtree(folder / 'val')
    (error,) = errors(folder)
    assert 'val does not exist: set val_dataloader.dataset.data_root' in error


def test_head_and_mixed_labels_have_the_classes(folder):
    model = dict(data_preprocessor=dict(num_classes=1000), head=dict(num_classes=1000))
    first = errors(folder, model)[:2]
    assert [error.partition(',')[0] for error in first] == [
        'model.data_preprocessor.num_classes is 1000',
        'model.head.num_classes is 1000',
    ]
