"""What the pages of docs/ say of configs, tools and logs is so."""

import json
import re
import textwrap
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import transformers
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from safetensors.torch import load_file, save_file

import castling_det  # makes `castling_det::` configs known before a config is read
from castling_det.castling import castling_attentions
from castling_det.engine.cli import load_config
from castling_det.models import CastlingAttention, FocalAttention, SoftmaxAttention

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
COCO = sorted(ROOT.glob('configs/castling_picodet/*_coco-*.py'))
DEMO = 'castling_det::castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'
PAGES = sorted(
    page for top in ('*', 'docs/**/*', 'configs/**/*') for page in ROOT.glob(f'{top}.md')
)


def blocks(page: str, section: str = '') -> list[str]:
    """Indented blocks of a page, or of one of its sections, dedented."""
    text = (DOCS / f'{page}.md').read_text()
    if section:
        text = text.split(f'\n## {section}\n')[1].split('\n## ')[0]
    found = re.findall(r'(?:^    .*\n|^\n(?=    ))+', text, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found]


def options(command: str) -> dict[str, str]:
    """What a command of a page sets by ``--cfg-options``."""
    words = command.replace('\\\n', ' ').replace("'", '').partition('--cfg-options')[2].split()
    return dict(word.split('=', 1) for word in words)


def write_config(path: Path, *words: str) -> Path:
    """The two blocks of the page on configs by hand that have one of the words, as a config."""
    base, length = (b for b in blocks('config-by-hand') if any(word in b for word in words))
    path.write_text(f'{base}\n{length}\n')
    return path


@pytest.fixture
def my_config(tmp_path) -> Path:
    """The page's ten lines, and what it says on the length of a training."""
    return write_config(tmp_path / 'my_config.py', 'bbox_head')


def test_config_of_custom_data_builds(my_config):
    cfg = load_config(my_config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert model.bbox_head.num_classes == 2
    assert cfg.train_dataloader.dataset.ann_file == 'train.json'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.metainfo.to_dict() == {'classes': ('cat', 'dog')}
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file == '/data/pets/val.json'
    assert cfg.train_cfg.type == 'EpochBasedTrainLoop'
    assert cfg.param_scheduler[-1].T_max == cfg.train_cfg.max_epochs == 120
    assert cfg.model.train_cfg.initial_epoch * 3 == cfg.train_cfg.max_epochs


@pytest.mark.parametrize('task', ['detector', 'segmentor'])
def test_plugged_in_backbone_learns_in_their_config(task, tmp_path, labelled_images):
    """In the page's configs one step gives every parameter of the backbone a gradient."""
    (block,) = blocks('plug-in', f'A {task}')[:1]
    (tmp_path / 'plugged.py').write_text(block)
    cfg = load_config(tmp_path / 'plugged.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'CastlingLeViT'
    assert [hook.type for hook in cfg.custom_hooks] == ['CastlingHook']
    assert cfg.optim_wrapper.optimizer.to_dict() == dict(type='AdamW', lr=0.0002, weight_decay=0.05)
    if task == 'detector':
        data = demo_mm_inputs(1, [(3, 64, 96)], num_classes=80)
    else:
        data = labelled_images((64, 96), 150)
    data = model.data_preprocessor(data, True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.backbone.parameters())


def test_config_of_own_classes_builds(tmp_path):
    (block,) = (block for block in blocks('imagenet') if '_base_' in block)
    (tmp_path / 'my_config.py').write_text(block)
    cfg = load_config(tmp_path / 'my_config.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert cfg.model.head.num_classes == model.data_preprocessor.num_classes == 3
    assert model.head.fc.out_features == 3
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.metainfo.to_dict() == {'classes': ('cat', 'dog', 'horse')}
        assert dataset.data_root == '/data/animals/'
        assert dataset.data_prefix == ('train' if split == 'train' else 'val')


def test_command_of_custom_data_sets_every_size(my_config):
    (command,) = (block for block in blocks('config-by-hand') if 'random_size_range' in block)
    cfg = load_config(my_config, {key: key for key in options(command)})
    assert cfg.model.data_preprocessor.batch_augments[0].random_size_range.startswith('model.')
    for split in ('train', 'val', 'test'):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        (resize,) = (step for step in pipeline if step.type == 'Resize')
        assert resize.scale.startswith(f'{split}_dataloader')


def test_larger_model_of_custom_data_is_coherent():
    text = (DOCS / 'config-by-hand.md').read_text()
    arch, channels = re.search(r"arch='(\d+)'\), neck=dict\(in_channels=\[(.*?)\]", text).groups()
    (leaf,) = ROOT.glob(f'configs/castling_picodet/castling-picodet_levit-{arch}_*_coco-416*.py')
    assert Config.fromfile(leaf).model.neck.in_channels == json.loads(f'[{channels}]')


@pytest.fixture
def my_segmentor(tmp_path) -> Path:
    """The page's config of label maps, and what it says on the length of a training."""
    return write_config(tmp_path / 'my_segmentor.py', 'seg_map_path', 'PolyLR')


def test_segmentor_of_custom_data_builds(my_segmentor):
    cfg = load_config(my_segmentor)
    init_default_scope(cfg.default_scope)
    assert MODELS.build(cfg.model).decode_head.num_classes == 2
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(dict(cfg[f'{split}_dataloader'].dataset, lazy_init=True))
        assert dataset.metainfo['classes'] == ('ground', 'roof') and not dataset.reduce_zero_label
        folder = '/data/roofs/labels/' + ('train' if split == 'train' else 'val')
        assert dataset.data_prefix['seg_map_path'] == folder
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters == 6000


def test_command_of_custom_data_sets_every_size_of_a_segmentor(my_segmentor):
    (command,) = (block for block in blocks('config-by-hand') if 'pos_grid' in block)
    changed = {key: literal_eval(value) for key, value in options(command).items()}
    cfg = load_config(my_segmentor, changed)
    size = (384, 512)
    _, _, resize, crop, *_ = cfg.train_dataloader.dataset.pipeline
    assert (resize.type, resize.scale) == ('RandomResize', size[::-1])
    assert (crop.type, crop.crop_size) == ('RandomCrop', size)
    assert cfg.model.data_preprocessor.size == size
    assert cfg.model.backbone.pos_grid == tuple(side // 16 for side in size)
    for split in ('val', 'test'):
        resize = cfg[f'{split}_dataloader'].dataset.pipeline[1]
        assert (resize.type, resize.scale) == ('Resize', size[::-1])


@pytest.mark.parametrize('leaf', COCO, ids=lambda path: path.stem)
def test_tree_of_coco_is_where_the_configs_look(leaf, monkeypatch):
    (tree,) = (block for block in blocks('coco') if '└──' in block)
    names = set(re.findall(r'[\w.]+', tree))
    monkeypatch.setenv('CASTLING_DET_DATA', '/datasets')
    cfg = Config.fromfile(leaf)
    for split, name in (('train', 'train2017'), ('val', 'val2017'), ('test', 'val2017')):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.data_root == '/datasets/coco/'
        assert dataset.ann_file == f'annotations/instances_{name}.json'
        assert dataset.data_prefix.img == f'{name}/'
        assert {name, f'instances_{name}.json'} <= names


def test_command_of_coco_moves_every_path(monkeypatch):
    (command,) = (block for block in blocks('coco') if '--cfg-options' in block)
    monkeypatch.delenv('CASTLING_DET_DATA', raising=False)
    assert 'data/coco' in Config.fromfile(COCO[0]).dump()
    cfg = load_config(COCO[0], options(command))
    cfg.data_root = None  # the variable itself
    assert 'data/coco/' not in cfg.dump()


def test_every_field_of_a_log_is_explained():
    """The fields of trainings with CastlingHook, GapHook, classwise metrics and a GPU."""
    fields = ('lr', 'base_lr', 'time', 'data_time', 'memory', 'loss', 'loss_cls', 'loss_bbox')
    metrics = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
    wanted = {*fields, 'loss_dfl', 'nonzeros', 'ramp', 'nonzeros/LAYER', 'gap/METRIC', 'eta'}
    wanted |= {*(f'coco/bbox_{metric}' for metric in metrics), 'coco/CLASS_precision'}
    wanted |= {f'{head}.{field}' for head in ('decode', 'aux') for field in ('loss_ce', 'acc_seg')}
    wanted |= {*(f'decode.loss_{part}' for part in ('cls', 'mask', 'dice')), 'grad_norm'}
    wanted |= {'mIoU', 'mAcc', 'aAcc'}
    rows = re.findall(r'^\| (`.*?) \|', (DOCS / 'log-fields.md').read_text(), re.MULTILINE)
    explained = set(re.findall(r'`(.*?)`', ' '.join(rows)))
    assert wanted <= explained


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r'^#+ (.+)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r'\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)', page.read_text())
    for file, anchor in links:
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f'{file}#{anchor}'


def test_every_page_is_in_the_index():
    listed = set(re.findall(r'\]\((\w[\w-]*\.md)\)', (DOCS / 'README.md').read_text()))
    assert listed == {page.name for page in DOCS.glob('*.md')} - {'README.md'}


# The page on ViTs of other libraries: its blocks run one after the other, with tiny models.


@pytest.fixture(scope='module')
def one_recording() -> Iterator[None]:
    """Focal attention of the same heads and dims is recorded once."""
    pytest.importorskip('onnxruntime', reason="the extra 'export' is not installed")
    from castling_det.export.recording import FocalFunction

    record_anew, known = FocalFunction.record, {}

    def record(function):
        if function.name not in known:
            known[function.name] = record_anew(function)
        return known[function.name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FocalFunction, 'record', record)
        yield


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict:
    """What is the reader's own; files of the page lie in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    images = torch.rand(10, 2, 3, 56, 28, generator=torch.Generator().manual_seed(0))
    return dict(loader=[(each, torch.tensor([0, 4])) for each in images], num_epochs=2)


def run(way: str, names: dict) -> None:
    """Run a way to its file, with the loop; at the end ``trained`` is what it trained."""
    for block in blocks('castle-your-vit', way):
        if 'Trainer(' not in block:
            exec(block, names)
        if 'loss' in block or 'cross_entropy' in block:
            names['trained'] = names['model']
    exec(*blocks('castle-your-vit', 'The file'), names)


def logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model.eval()(images)
    return getattr(output, 'logits', output)


def assert_shipped(names: dict) -> None:
    """What was loaded is what was trained; the file computes it."""
    trained, model, images = names['trained'], names['model'], names['images']
    assert model is not trained
    assert sum(isinstance(m, FocalAttention) for m in model.modules()) == 1
    expected = logits(model, images)
    assert images.shape == (2, 3, 56, 28) and expected.shape == (2, 5)
    assert torch.equal(logits(trained, images), expected)
    file = torch.from_numpy(names['logits'])
    torch.testing.assert_close(file, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures('one_recording')
def test_way_of_a_timm_user(names, monkeypatch):
    create, name = timm.create_model, 'vit_small_patch14_dinov2'
    tiny = dict(embed_dim=32, depth=1, num_heads=2)
    monkeypatch.setattr(timm, 'create_model', lambda *args, **more: create(*args, **more, **tiny))
    start = timm.create_model(name, num_classes=0, img_size=518).state_dict()
    save_file(start, 'dinov2.safetensors')
    run('timm', names)
    assert_shipped(names)
    steps = {state['step'].item() for state in names['optimizer'].state_dict()['state'].values()}
    assert steps == {20}
    learnt = names['model'].state_dict()
    distances = [(learnt[key] - value).abs().max() for key, value in start.items()]
    assert 0 < max(distances) < 0.001  # 20 steps of 2e-5 from the file's weights
    names['model'] = names['build']()
    (distil,) = blocks('castle-your-vit', 'Nearer still')
    exec(distil.replace('iterations=300', 'iterations=2'), names)


def test_models_from_python(names, monkeypatch):
    """The blocks of the page in a row: another library's ViT, and a model of a config."""
    create = timm.create_model
    tiny = dict(embed_dim=32, depth=1, num_heads=2)
    monkeypatch.setattr(timm, 'create_model', lambda *args, **more: create(*args, **more, **tiny))
    start = timm.create_model('vit_small_patch14_dinov2', num_classes=0, img_size=518).state_dict()
    save_file(start, 'dinov2.safetensors')
    Path('my_config.py').write_text(f"_base_ = '{DEMO}'")
    for section in (
        'Make a trained ViT linear',
        'A model of a config',
        'Drop the auxiliary branches',
    ):
        exec(*blocks('python-api', section), names)
    kept = names['vit'].state_dict()
    assert all(torch.equal(kept[key], value) for key, value in start.items())
    assert any(isinstance(module, FocalAttention) for module in names['vit'].modules())
    kinds = [{type(m) for m in names[name].modules()} for name in ('model', 'twin')]
    assert [CastlingAttention in each for each in kinds] == [True, False]
    assert [SoftmaxAttention in each for each in kinds] == [False, True]
    assert not list(castling_attentions(names['model']))


@pytest.fixture
def dinov2_small(names) -> dict[str, torch.Tensor]:
    """The folder of the page, and the weights in it."""
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=14)
    model = transformers.Dinov2Model(transformers.Dinov2Config(image_size=224, **sizes))
    model.save_pretrained('dinov2-small')
    return model.state_dict()


@pytest.mark.usefixtures('one_recording')
def test_way_of_a_transformers_user(names, dinov2_small):
    run('transformers', names)
    assert_shipped(names)
    learnt = load_file('castlified/model.safetensors')
    assert set(learnt) == set(names['model'].state_dict())
    distances = [(learnt[f'dinov2.{key}'] - dinov2_small[key]).abs().max() for key in dinov2_small]
    assert 0 < max(distances) < 0.001


def test_published_form_is_loaded_whole(names, dinov2_small):
    attn = dict(type='CastlingAttention')
    names |= dict(Model=transformers.Dinov2ForImageClassification, castling_det=castling_det)
    model = names['Model'].from_pretrained('dinov2-small', num_labels=5)
    castling_det.castlify(model, attn)
    model.save_pretrained('castlified')
    exec(*blocks('castle-your-vit', 'What takes the place of softmax'), names)
    loaded = names['model']
    assert loaded is not model and any('conv' in key for key in loaded.state_dict())
    assert torch.equal(logits(loaded, names['loader'][0][0]), logits(model, names['loader'][0][0]))


def test_trainer_goes_on_with_a_castlified_model(names, dinov2_small):
    """Also from its own checkpoint."""
    pytest.importorskip('accelerate')
    build, trainer = (
        next(block for block in blocks('castle-your-vit', 'transformers') if word in block)
        for word in ('from_pretrained', 'Trainer(')
    )
    pixels, labels = zip(*names['loader'], strict=True)
    rows = zip(torch.cat(pixels), torch.cat(labels), strict=True)
    names['train_dataset'] = [dict(pixel_values=x, labels=y) for x, y in rows]
    exec(build, names)
    exec(trainer, names)
    steps = names['trainer'].state.global_step
    assert steps > 0
    exec(build, names)
    names['num_epochs'] = 4
    exec(trainer.replace('.train()', '.train(resume_from_checkpoint=True)'), names)
    assert names['trainer'].state.global_step == 2 * steps
