import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from castling_det import training_form
from castling_det.castling import castling_attentions
from castling_det.errors import InputError
from castling_det.export.castled_checkpoint import castle_checkpoint, inference_config
from castling_det.inference.trained_model import TrainedModel
from castling_det.models.attention import MaskedSoftmax

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs/castling_picodet'
STEM = 'castling-picodet_levit-nano_1xb16-8e_shapes-64x512'
NONZEROS = {'backbone.stages.0.blocks.0.attn.attn': 0.0123, 'backbone.other': 0.0}


def build(cfg, scope='mmdet'):
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg.model)


@pytest.fixture
def cfg():
    return Config.fromfile(FOLDER / f'{STEM}.py')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A Runner's checkpoint with EMA, where the average is what was evaluated; that average."""
    cfg = Config.fromfile(FOLDER / f'{STEM}.py')
    torch.manual_seed(0)
    average, raw = build(cfg), build(cfg)
    meta = dict(
        epoch=3,
        iter=30,
        cfg='of the training',
        seed=1,
        dataset_meta=dict(classes=('disk', 'lamp')),
        castling=dict(ramp=0.5, nonzeros=NONZEROS, num_empty=0),
    )
    ema = {f'module.{key}': value for key, value in raw.state_dict().items()}
    state = dict(state_dict=average.state_dict(), ema_state_dict=dict(ema, steps=torch.tensor(3)))
    optimizer = dict(state={0: dict(momentum_buffer=torch.zeros(1000))}, param_groups=[])
    path = tmp_path_factory.mktemp('run') / 'epoch_3.pth'
    torch.save(dict(meta=meta, message_hub={}, optimizer=optimizer, **state), path)
    return path, average.eval()


@pytest.fixture(scope='module')
def castled(trained, tmp_path_factory):
    cfg = Config.fromfile(FOLDER / f'{STEM}.py')
    return castle_checkpoint(cfg, trained[0], tmp_path_factory.mktemp('out') / 'deep', 'demo')


def test_castled_files_give_the_evaluated_outputs(trained, castled):
    """Read without this package's help; the built model has nothing of aux and all its weights."""
    _, average = trained
    files = castled
    content = files.checkpoint.read_bytes()
    stem = f'demo-castled-{hashlib.sha256(content).hexdigest()[:8]}'
    written = sorted(file.name for file in files.checkpoint.parent.iterdir())
    assert written == [f'{stem}.pth', f'{stem}.py']
    assert files.config == files.checkpoint.with_suffix('.py')

    checkpoint = torch.load(files.checkpoint, weights_only=True)
    assert list(checkpoint) == ['meta', 'state_dict']
    assert set(checkpoint['meta']) == {'cfg', 'dataset_meta', 'epoch', 'iter', 'castling'}
    assert list(checkpoint['state_dict']) == list(average.state_dict())
    assert len(content) < 1.2 * sum(v.nbytes for v in average.state_dict().values())

    model = build(Config.fromfile(files.config))
    assert not any(isinstance(module, MaskedSoftmax) for module in model.modules())
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad(), training_form(model.eval()):
        for kind, expected in zip(model(x), average(x), strict=True):
            assert all(map(torch.equal, kind, expected))


def test_ramp_is_taken_by_whoever_loads(cfg, trained, castled, tmp_path):
    """From the training's file and the castled one alike; a bare state dict tells of none."""
    torch.save(trained[1].state_dict(), tmp_path / 'bare.pth')
    for file, ramp in ((trained[0], 0.5), (castled.checkpoint, 0.5), (tmp_path / 'bare.pth', 0)):
        model = TrainedModel(cfg, file).model
        assert {attention.ramp for _, attention in castling_attentions(model)} == {ramp}


@pytest.mark.parametrize('name', ['segformer_vit-nano', 'mask2former-nano_vit-nano'])
def test_castled_segmentor_gives_the_same_maps(name, tmp_path, call):
    """By the tool; the MACs that it tells differ by the softmax of six blocks of four heads."""
    (path,) = ROOT.glob(f'configs/*/castling-{name}_1xb4-1500i_camvid-192x256.py')
    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    model = build(cfg, 'mmseg').eval()
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'seg.pth')
    lines = call('castle', path, tmp_path / 'seg.pth', '--out', tmp_path / 'out').splitlines()
    macs = [float(line.split()[-5]) for line in lines if line.endswith(' M MACs at 192x256')]
    tokens = 12 * 16 + 1
    assert macs[0] - macs[1] == pytest.approx(6 * 4 * 2 * tokens**2 * 32 / 1e6, abs=0.11)

    (config,) = (tmp_path / 'out').glob('*.py')
    castled = build(Config.fromfile(config), 'mmseg').eval()
    assert not any(isinstance(module, MaskedSoftmax) for module in castled.modules())
    weights = torch.load(config.with_suffix('.pth'), weights_only=True)['state_dict']
    castled.load_state_dict(weights, strict=True)
    x = torch.randn(1, 3, 64, 96)
    meta = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), (64, 96))
    with torch.no_grad(), training_form(castled):
        assert torch.equal(castled.encode_decode(x, [meta]), model.encode_decode(x, [meta]))


def test_castled_again(castled, tmp_path, call):
    """The weights stay; a file as `out` gives the name; a bare state dict tells of no masks."""
    cfg, expected = (
        Config.fromfile(castled.config),
        torch.load(castled.checkpoint, weights_only=True)['state_dict'],
    )
    torch.save(expected, tmp_path / 'bare.pth')
    again = castle_checkpoint(cfg, tmp_path / 'bare.pth', tmp_path / 'again.pth', 'demo')
    assert again.checkpoint.name.startswith('again-castled-')
    weights = torch.load(again.checkpoint, weights_only=True)['state_dict']
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert 'does not say whether its masks had vanished' in again.warning()
    said = call('castle', castled.config, castled.checkpoint, '--out', tmp_path / 'third')
    assert 'inference form: ' in said and 'training form' not in said and 'Checkpoint: ' in said


def test_inference_config_leaves_the_original_alone(cfg):
    before = cfg.pretty_text
    castled = inference_config(cfg)
    assert castled.model.backbone.attn == dict(type='CastlingAttention', aux=None)
    assert cfg.pretty_text == before
    nested = Config(dict(model=dict(layers=[dict(attn=dict(type='my.CastlingAttention'))])))
    assert inference_config(nested).model.layers[0].attn.aux is None


def test_warning_with_the_figure(castled):
    assert (castled.ramp, castled.nonzeros) == (0.5, NONZEROS)
    assert 'masks had not vanished: the ramp was 0.5' in castled.warning()
    assert 'backbone.stages.0.blocks.0.attn.attn: 1.230%' in castled.warning()
    assert 'never measured' in replace(castled, nonzeros={}).warning()
    assert replace(castled, ramp=1.0).warning() is None


def test_tool(trained, castled, tmp_path, call):
    """The same file as from the function; MACs fall, and the warning is passed on."""
    lines = call('castle', FOLDER / f'{STEM}.py', trained[0], '--out', tmp_path).splitlines()
    forms = [line for line in lines if line.endswith(' M MACs at 64x512')]
    assert [line.partition(':')[0] for line in forms] == ['training form', 'inference form']
    macs = [float(line.split()[-5]) for line in forms]
    assert macs[0] > 1.05 * macs[1]
    assert f'warning: {castled.warning()}' in lines
    (checkpoint,) = tmp_path.glob(f'{STEM}-castled-*.pth')
    assert checkpoint.stem[-8:] == castled.checkpoint.stem[-8:]
    assert f'Checkpoint: {checkpoint}' in lines


def test_what_does_not_fit_is_named(cfg, trained, tmp_path):
    path, _ = trained
    out = tmp_path / 'out'
    twin = Config.fromfile(FOLDER / f'{STEM.replace("castling-", "")}.py')
    with pytest.raises(ValueError, match='shapes-64x512.py: .* no CastlingAttention'):
        castle_checkpoint(twin, path, out, 'twin')
    cfg.model.bbox_head.num_classes = 3
    with pytest.raises(ValueError, match=r'epoch_3.pth does not fit SingleStageDetector: .*levels'):
        castle_checkpoint(cfg, path, out, 'classes')
    cfg.model.bbox_head.num_classes = 6
    cfg.model.backbone.pop('attn')
    with pytest.raises(ValueError, match=r"does not name: write attn=dict\(type='CastlingAtt"):
        castle_checkpoint(cfg, path, out, 'unnamed')
    with pytest.raises(InputError, match='no.pth does not exist'):
        castle_checkpoint(cfg, tmp_path / 'no.pth', out, 'missing')
    assert not out.exists()
    with pytest.raises(InputError, match='/deep cannot be written .*another --out'):
        castle_checkpoint(cfg, path, path / 'deep', 'demo')
