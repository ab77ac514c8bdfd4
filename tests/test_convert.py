import logging

import pytest
import torch
from mmengine.logging import MMLogger

from castling_det.convert import levit_state_dict, load_pretrained
from castling_det.models import CastlingLeViT

# Depths under and over ten units, so that units sorted as text would be in another order.
ARCH = dict(embed_dims=(16, 24, 32), num_heads=(2, 3, 4), depths=(2, 3, 4), key_dims=8)
SOFTMAX = dict(type='SoftmaxAttention')


def levit(attn=SOFTMAX, **config):
    """A LeViT in which every number, bias table and buffer is random."""
    torch.manual_seed(0)
    model = CastlingLeViT(ARCH, attn, bias_grid=6, **config)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith('running_var'):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.normal_(0, 0.3)
            else:
                value.random_(1, 100)
    return model


def leaves(layer, names):
    """What a convolution or linear layer and its batch norm hold, under a library's two names."""
    ours = ('conv' if 'convs' in layer else 'linear', 'bn')
    buffers = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    yield f'{layer}.{ours[0]}.weight', f'{names[0]}.weight'
    for buffer in buffers:
        yield f'{layer}.bn.{buffer}', f'{names[1]}.{buffer}'


def authors_keys():
    """(ours, theirs): one line of units; index buffers and two heads beside them."""
    for i in range(4):
        theirs = f'patch_embed.{2 * i}'
        yield from leaves(f'stem.convs.{i}', (f'{theirs}.c', f'{theirs}.bn'))
    unit = 0
    for stage, depth in enumerate(ARCH['depths']):
        blocks = [f'blocks.{i}' for i in range(depth)]
        for block in ['downsample', *blocks] if stage else blocks:
            ours = f'stages.{stage}.{block}'
            if block == 'downsample':
                parts, inside = {'q': 'q.1', 'kv': 'kv', 'proj': 'proj.1'}, ''
            else:
                parts, inside = {'qkv': 'qkv', 'proj': 'proj.1'}, 'm.'
            for part, theirs in parts.items():
                theirs = f'blocks.{unit}.{inside}{theirs}'
                yield from leaves(f'{ours}.attn.{part}', (f'{theirs}.c', f'{theirs}.bn'))
            yield f'{ours}.attn.bias.table', f'blocks.{unit}.{inside}attention_biases'
            for part, number in (('up', 0), ('down', 2)):
                theirs = f'blocks.{unit + 1}.m.{number}'
                yield from leaves(f'{ours}.mlp.{part}', (f'{theirs}.c', f'{theirs}.bn'))
            unit += 2


def timm_keys():
    for i in range(4):
        theirs = f'stem.conv{i + 1}'
        yield from leaves(f'stem.convs.{i}', (f'{theirs}.linear', f'{theirs}.bn'))
    for stage, depth in enumerate(ARCH['depths']):
        blocks = [f'blocks.{i}' for i in range(depth)]
        for block in ['downsample', *blocks] if stage else blocks:
            unit = f'stages.{stage}.{block}'
            if block == 'downsample':
                parts, attn = {'q': 'q.ln', 'kv': 'kv', 'proj': 'proj.ln'}, 'attn_downsample'
            else:
                parts, attn = {'qkv': 'qkv', 'proj': 'proj.ln'}, 'attn'
            for part, theirs in parts.items():
                theirs = f'{unit}.{attn}.{theirs}'
                yield from leaves(f'{unit}.attn.{part}', (f'{theirs}.linear', f'{theirs}.bn'))
            yield f'{unit}.attn.bias.table', f'{unit}.{attn}.attention_biases'
            for part, theirs in (('up', 'ln1'), ('down', 'ln2')):
                theirs = f'{unit}.mlp.{theirs}'
                yield from leaves(f'{unit}.mlp.{part}', (f'{theirs}.linear', f'{theirs}.bn'))


def in_layout_of(keys, state_dict):
    return {
        theirs: state_dict[ours].flatten(1) if theirs.endswith('_biases') else state_dict[ours]
        for ours, theirs in keys
    }


AUTHORS_EXTRA = {
    'blocks.0.m.attention_bias_idxs': torch.zeros(36, 36, dtype=torch.int64),
    'blocks.4.attention_bias_idxs': torch.zeros(9, 36, dtype=torch.int64),
    **{f'{head}.bn.weight': torch.ones(32) for head in ('head', 'head_dist')},
    **{f'{head}.l.weight': torch.ones(10, 32) for head in ('head', 'head_dist')},
}
TIMM_EXTRA = {
    **{f'{head}.bn.running_mean': torch.ones(32) for head in ('head', 'head_dist')},
    **{f'{head}.linear.bias': torch.ones(10) for head in ('head', 'head_dist')},
}


@pytest.mark.parametrize(
    ('keys', 'extra', 'known'),
    [
        (
            authors_keys,
            AUTHORS_EXTRA,
            {
                'patch_embed.6.c.weight': 'stem.convs.3.conv.weight',
                'blocks.2.m.qkv.bn.bias': 'stages.0.blocks.1.attn.qkv.bn.bias',
                'blocks.4.q.1.c.weight': 'stages.1.downsample.attn.q.linear.weight',
                'blocks.5.m.2.bn.weight': 'stages.1.downsample.mlp.down.bn.weight',
                'blocks.12.proj.1.c.weight': 'stages.2.downsample.attn.proj.linear.weight',
                'blocks.21.m.0.c.weight': 'stages.2.blocks.3.mlp.up.linear.weight',
            },
        ),
        (
            timm_keys,
            TIMM_EXTRA,
            {
                'stem.conv1.linear.weight': 'stem.convs.0.conv.weight',
                'stages.0.blocks.1.attn.proj.ln.bn.bias': 'stages.0.blocks.1.attn.proj.bn.bias',
                'stages.1.downsample.attn_downsample.kv.linear.weight': (
                    'stages.1.downsample.attn.kv.linear.weight'
                ),
                'stages.1.downsample.mlp.ln1.bn.weight': 'stages.1.downsample.mlp.up.bn.weight',
            },
        ),
    ],
    ids=['authors', 'timm'],
)
def test_other_layouts(keys, extra, known):
    """Every number arrives at its own place, and the maps are the same."""
    original = levit()
    expected = original.state_dict()
    theirs = in_layout_of(keys(), expected)
    assert len(theirs) == len(expected)
    assert all(
        torch.equal(theirs[key].flatten(), expected[ours].flatten()) for key, ours in known.items()
    )
    converted = levit_state_dict({**theirs, **extra})
    assert converted.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in converted.items())
    twin = CastlingLeViT(ARCH, SOFTMAX, bias_grid=6)
    twin.load_state_dict(converted, strict=True)
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        for ours, of_original in zip(twin.eval()(x), original.eval()(x), strict=True):
            assert ours.isfinite().all() and torch.equal(ours, of_original)


def test_transformers_layout_with_heads():
    from transformers.models.levit import LevitConfig, LevitForImageClassificationWithTeacher

    config = LevitConfig(
        image_size=96,
        hidden_sizes=ARCH['embed_dims'],
        num_attention_heads=ARCH['num_heads'],
        depths=ARCH['depths'],
        key_dim=(8, 8, 8),
    )
    theirs = LevitForImageClassificationWithTeacher(config).state_dict()
    assert all(key.startswith(('levit.', 'classifier')) for key in theirs)
    converted, expected = levit_state_dict(theirs), levit().state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in expected.items()}


def test_own_layout_passes():
    state_dict = levit().state_dict()
    assert levit_state_dict(state_dict) == dict(state_dict)


@pytest.fixture
def messages():
    """What the package logs meanwhile."""
    records = []
    logger = MMLogger.get_current_instance()
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


def pretrained(path, **config):
    return dict(type='Pretrained', checkpoint=str(path), **config)


@pytest.mark.parametrize('container', [None, 'state_dict', 'model'])
def test_init_cfg(tmp_path, messages, container):
    original, path = levit(), tmp_path / 'levit.pth'
    theirs = {**in_layout_of(authors_keys(), original.state_dict()), **AUTHORS_EXTRA}
    torch.save({container: theirs} if container else theirs, path)
    twin = CastlingLeViT(ARCH, SOFTMAX, bias_grid=6, init_cfg=pretrained(path))
    twin.init_weights()
    expected = original.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in twin.state_dict().items())
    (message,) = [m for m in messages if str(path) in m]
    assert f'{len(expected)} keys matched, 0 of the model missing' in message
    assert f'{len(AUTHORS_EXTRA)} of the file not used (logit biases: 0)' in message


def test_init_cfg_of_the_castling_form(tmp_path, messages):
    """A softmax checkpoint: the logit biases not used and the convolutions missing are counted."""
    original, path = levit(), tmp_path / 'levit.pth'
    torch.save(in_layout_of(timm_keys(), original.state_dict()), path)
    model = CastlingLeViT(ARCH, init_cfg=pretrained(path))
    convs = {k: v.clone() for k, v in model.state_dict().items() if k.endswith('attn.conv.weight')}
    model.init_weights()
    expected = original.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, convs[key] if key in convs else expected[key])
    (message,) = [m for m in messages if str(path) in m]
    attentions = 11  # nine blocks and two downsamplings
    assert len(convs) == attentions
    assert f'{len(expected) - attentions} keys matched, {attentions} of the model' in message
    assert f'{attentions} of the file not used (logit biases: {attentions})' in message


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.', 'model.backbone'])
def test_init_cfg_prefix(tmp_path, messages, prefix):
    original, path = levit(), tmp_path / 'detector.pth'
    stem = prefix.rstrip('.')
    detector = {f'{stem}.{key}': value for key, value in original.state_dict().items()}
    detector |= {'neck.weight': torch.ones(3), 'backbone_2.stem.convs.0.conv.weight': torch.ones(1)}
    torch.save(dict(state_dict=detector), path)
    twin = levit(init_cfg=pretrained(path, prefix=prefix))
    for value in twin.state_dict().values():
        value.zero_()
    twin.init_weights()
    expected = original.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in twin.state_dict().items())
    assert any(f'{len(expected)} keys matched, 0 of the model missing' in m for m in messages)
    with pytest.raises(ValueError, match='prefix'):
        levit(init_cfg=pretrained(path)).init_weights()


def test_init_weights_without_a_file():
    model = levit()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_match_is_an_error(tmp_path):
    path = tmp_path / 'resnet.pth'
    torch.save({'layer1.0.conv1.weight': torch.ones(2), 'fc.bias': torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r'resnet\.pth.*none of its 2 keys'):
        levit(init_cfg=pretrained(path)).init_weights()


def test_other_shape_is_an_error_and_loads_nothing(tmp_path):
    path = tmp_path / 'wide.pth'
    wide = CastlingLeViT(dict(ARCH, embed_dims=(16, 24, 40)), SOFTMAX, bias_grid=6)
    torch.save(wide.state_dict(), path)
    model = levit()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r'stages\.2\.downsample\.attn\.proj.*\(40, .*\(32, '):
        load_pretrained(model, path, convert=levit_state_dict)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'absent\.pth'):
        levit(init_cfg=pretrained(tmp_path / 'absent.pth')).init_weights()
