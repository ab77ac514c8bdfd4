"""A written config fits its data and itself: size and epochs reach every place from one line."""

from pathlib import Path

import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from castling_det.configs import build_model, input_shape
from castling_det.datasets.own_data import OwnData, Split
from castling_det.engine import new_config
from castling_det.engine.cli import load_config
from castling_det.engine.new_config import BASES, MODELS, config_text, find_weights, input_size
from castling_det.engine.runner_checks import schedule_faults
from castling_det.errors import InputError
from castling_det.inference.run_onnx import IMAGE_SUFFIXES

ROOT = Path(__file__).parents[2]
KEYS = {
    'detection': lambda split: dict(ann_file=f'{split}.json', data_prefix=dict(img=f'{split}/')),
    'segmentation': lambda split: dict(
        data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}')
    ),
    'classification': lambda split: dict(data_prefix=split),
}
# The smallest of each family; what has trained weights here names a file that is not read.
SMALL = dict(levit='levit-nano', vit='vit-nano', dinov2='vit-s-dinov2')
PAIRS = [(task, SMALL[family]) for task, families in BASES.items() for family in families]


def own_data(task: str, *splits: str, classes: tuple[str, ...] = ('cat', 'dog')) -> OwnData:
    made = {split: Split(40, KEYS[task](split)) for split in splits or ('train', 'val')}
    return OwnData(Path('/data/pets'), task, classes, made, [])


def written(folder: Path, data: OwnData, name: str, epochs: int = 50, weights: Path | None = None):
    """The config's path, with the default size."""
    path = folder / 'my_config.py'
    size = input_size(name, data.task, None)
    path.write_text(config_text(data, name, size, epochs, weights))
    return path


def resized(path: Path, side: int, epochs: int):
    """The config with another size and length, changed on the one line that has them."""
    lines = path.read_text().splitlines()
    (place,) = (n for n, line in enumerate(lines) if line.startswith('size, epochs = '))
    size = (side, 2 * side) if '(' in lines[place].partition('#')[0] else side
    lines[place] = f'size, epochs = {size}, {epochs}'
    path.write_text('\n'.join(lines))
    return load_config(path)


@pytest.mark.parametrize(('task', 'name'), PAIRS)
def test_size_and_epochs_are_changed_on_one_line(tmp_path, task, name):
    path = written(tmp_path, own_data(task), name)
    side = 2 * BASES[task][MODELS[name].family][1]
    cfg = resized(path, side, 12)
    width = side if task == 'classification' else 2 * side
    assert input_shape(cfg) == (side, width)
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[0].end == 1
    assert not list(schedule_faults(cfg, 12 * 5, 5))
    sized = {
        step.type: step.get('scale', step.get('crop_size'))
        for step in cfg.train_dataloader.dataset.pipeline
        if 'scale' in step or 'crop_size' in step
    }
    assert (
        sized
        == {
            'detection': dict(Resize=(width, side)),
            'segmentation': dict(RandomResize=(width, side), RandomCrop=(side, width)),
            'classification': dict(RandomResizedCrop=side),
        }[task]
    )
    if name == 'levit-nano' and task == 'detection':
        assert cfg.model.train_cfg.initial_epoch == 4
    if task == 'segmentation':
        assert cfg.model.data_preprocessor.size == (side, width)
    if name == 'vit-nano':
        grid = cfg.model.backbone.pos_grid
        assert grid == ((side // 16, width // 16) if task == 'segmentation' else side // 16)


@pytest.mark.parametrize(('task', 'name'), PAIRS)
def test_model_and_data_have_the_classes(tmp_path, task, name):
    data = own_data(task, 'train', 'val', 'test', classes=('cat', 'dog', 'cow'))
    path = written(tmp_path, data, name)
    assert len(path.read_text().splitlines()) <= 25
    cfg = load_config(path)
    model = build_model(cfg)
    head = dict(detection='bbox_head', segmentation='decode_head', classification='head')[task]
    assert getattr(model, head).num_classes == 3
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        built = DATASETS.build(dict(dataset, lazy_init=True))
        assert built.metainfo['classes'] == ('cat', 'dog', 'cow')
        assert built.test_mode == (split != 'train')
        if task == 'detection' and split != 'train':
            assert (
                cfg[f'{split}_evaluator'].ann_file == built.ann_file == f'/data/pets/{split}.json'
            )


@pytest.mark.parametrize(
    ('arch', 'leaf'),
    [
        ('nano', 'castling-picodet_levit-nano_1xb16-8e_shapes-64x512'),
        ('128s', 'castling-picodet_levit-128s_8xb32-300e_coco-416x416'),
        ('192', 'castling-picodet_levit-192_8xb32-300e_coco-416x416'),
        ('384', 'castling-picodet_levit-384_8xb32-300e_coco-416x416'),
    ],
)
def test_widths_are_those_of_the_config_of_that_size(tmp_path, arch, leaf):
    expected = load_config(ROOT / 'configs' / 'castling_picodet' / f'{leaf}.py').model
    cfg = load_config(written(tmp_path, own_data('detection'), f'levit-{arch}'))
    assert cfg.model.backbone == expected.backbone and cfg.model.neck == expected.neck
    for key in ('in_channels', 'stacked_convs'):
        assert cfg.model.bbox_head[key] == expected.bbox_head[key]
    if arch.startswith(('192', '384')):  # of 416 px, as ours
        augments, sizes = cfg.model.data_preprocessor.batch_augments, (352, 480)
        assert expected.data_preprocessor.batch_augments[0].random_size_range == sizes
        assert tuple(round(side / 32) * 32 for side in augments[0].random_size_range) == sizes
    cfg = load_config(written(tmp_path, own_data('segmentation'), f'levit-{arch}'))
    assert cfg.model.decode_head.in_channels == expected.neck.in_channels


def test_weights_on_this_machine_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CASTLING_DET_WEIGHTS', str(tmp_path / 'mine'))
    monkeypatch.setattr(new_config, '_in_cache_of_timm', lambda name: None)
    files = (
        'mine/dinov2_vits14_reg4_pretrain.pth',
        'mine/LeViT-128S-96703c44.pth',
        'checkpoints/dinov2_vits14_pretrain.pth',
        'checkpoints/levit_128.safetensors',
        'mine/castling-picodet_levit-192_1xb8.pth',
        'mine/levit_256.json',
    )
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / 'mine' / 'levit_384').mkdir()
    found = {name: find_weights(name) for name in MODELS}
    assert {name: file.name for name, file in found.items() if file} == {
        'levit-128s': 'LeViT-128S-96703c44.pth',
        'levit-128': 'levit_128.safetensors',
        'vit-s-dinov2': 'dinov2_vits14_pretrain.pth',
    }
    (tmp_path / 'mine' / 'vit_s14.safetensors').touch()
    assert find_weights('vit-s-dinov2').name == 'vit_s14.safetensors'


def test_trained_weights_have_rates_of_their_own(tmp_path):
    data = own_data('segmentation')
    cfg = load_config(written(tmp_path, data, 'deit-tiny', weights=Path('/w/deit.pth')))
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='/w/deit.pth')
    assert cfg.optim_wrapper.optimizer.lr == 0.0001 and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.75
    cfg = load_config(written(tmp_path, data, 'deit-tiny'))
    assert 'init_cfg' not in cfg.model.backbone and cfg.optim_wrapper.optimizer.lr == 0.001
    cfg = load_config(written(tmp_path, data, 'vit-s-dinov2'))
    assert cfg.model.backbone.pretrained is True


def test_sizes_and_models_that_do_not_fit():
    assert input_size('levit-128s', 'detection', None) == (416, 416)
    assert input_size('vit-s-dinov2', 'detection', None) == (420, 420)
    assert input_size('levit-128s', 'segmentation', [64, 512]) == (64, 512)
    for name, task, sides, said in (
        ('levit-128s', 'detection', [400], 'multiples of 32 for detection, as 384 or 416'),
        ('levit-128s', 'segmentation', [64, 10], 'multiples of 64 for segmentation, as 64 or 128'),
        ('levit-128s', 'classification', [32, 64], 'give one side for classification'),
        ('vit-nano', 'detection', None, 'not there for detection: take levit-nano, '),
    ):
        with pytest.raises(InputError, match=said):
            input_size(name, task, sides)


def test_narrow_strips_are_trained_at_their_own_size(tmp_path):
    """mmdet's change of the size in training would round a width of 32 down to nothing."""
    path, data = tmp_path / 'strip.py', own_data('detection')
    for width, is_changed in ((32, False), (96, False), (128, True)):
        path.write_text(config_text(data, 'levit-128s', (512, width), 10, None))
        preprocessor = load_config(path).model.data_preprocessor
        assert bool(preprocessor.get('batch_augments')) is is_changed


def test_many_classes_are_wrapped(tmp_path):
    classes = tuple(f"it's number {number}" for number in range(40))
    path = written(tmp_path, own_data('detection', classes=classes), 'levit-nano')
    assert max(map(len, path.read_text().splitlines())) <= 120
    assert load_config(path).val_dataloader.dataset.metainfo.classes == classes


def test_the_palette_of_the_folder_is_that_of_the_data_sets(tmp_path):
    data = own_data('segmentation')
    data.palette = [[128, 64, 128], [0, 0, 142]]
    cfg = load_config(written(tmp_path, data, 'vit-nano'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.metainfo.palette == data.palette


def test_images_of_every_kind_are_classified(tmp_path):
    """As many as were found; mmpretrain's data set passes over some endings by default."""
    data = own_data('classification', classes=('cat', 'dog'))
    for name in data.classes:
        for suffix in IMAGE_SUFFIXES:
            (tmp_path / 'train' / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / 'train' / name / f'a{suffix}').touch()
    data.root = tmp_path
    cfg = load_config(written(tmp_path, data, 'vit-nano'))
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, pipeline=[]))
    assert len(dataset) == 2 * len(IMAGE_SUFFIXES)


def test_a_short_training_is_named(tmp_path, call):
    """40 photos are 3 iterations of 16; from random weights 1,300 are usual."""
    for name in ('cat', 'dog'):
        for split, number in (('train', 20), ('val', 1)):
            (tmp_path / 'pets' / split / name).mkdir(parents=True)
            for n in range(number):
                Image.new('RGB', (9, 9)).save(tmp_path / 'pets' / split / name / f'{n}.png')

    def told(epochs: int) -> str:
        out = tmp_path / f'my_{epochs}.py'
        return call('new_config', tmp_path / 'pets', '--epochs', epochs, '--out', out)

    assert '433 epochs: up to 1299 iterations of 16 images\nThat is short' in told(433)
    assert (
        f'1300 iterations are usual. For as many, change epochs to 434 in {tmp_path}/my_50.py\n'
        in told(50)
    )
    assert 'That is short' not in told(434)
