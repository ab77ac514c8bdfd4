import logging
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from mmengine.logging import MMLogger
from safetensors.torch import save_file

from castling_det.errors import InputError
from castling_det.models import CastlingLeViT, CastlingViT
from castling_det.models.pretrained import levit_state_dict, vit_state_dict

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
    assert len(converted) == len(expected) + len(extra)
    assert all(torch.equal(converted[key], value) for key, value in expected.items())
    twin = CastlingLeViT(ARCH, SOFTMAX, bias_grid=6)
    assert not twin.load_state_dict(converted, strict=False).missing_keys
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
    shapes = {k: v.shape for k, v in converted.items() if not k.startswith('classifier')}
    assert shapes == {k: v.shape for k, v in expected.items()}


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
    assert f'{len(expected)} of {len(expected)} weights of the model filled' in message
    assert '; 4 others of the file are not used (head.bn.weight, ' in message


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
    total = len(model.state_dict())
    assert f'{total - attentions} of {total} weights of the model filled' in message
    assert f'; {attentions} of the linear attention are new' in message
    assert f'; {attentions} logit biases of the file are not used' in message


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
    assert any(f'{len(expected)} of {len(expected)} weights' in m for m in messages)
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
    model = levit(init_cfg=pretrained(path))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r'stages\.\*\.downsample\.attn\.proj.*\(40, .*\(32, '):
        model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r'absent\.pth'):
        levit(init_cfg=pretrained(tmp_path / 'absent.pth')).init_weights()


VIT_ARCH = dict(embed_dims=16, num_heads=2, depths=11)  # blocks 2 and 10, not sorted as text


def vit(attn=SOFTMAX, arch=VIT_ARCH, pos_grid=6, **config):
    """A ViT of 96 px in which every number is random."""
    torch.manual_seed(0)
    model = CastlingViT(arch, attn, pos_grid=pos_grid, **config)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.normal_(0, 0.3)
    return model.eval()


def vit_in_layout_of(names, state_dict, extra_positions=1):
    """Rename a state dict of ours by the names that a library has for its parts.

    The class token's position is taken from the token and put before those of the patches.

    Args:
        names (dict): 'tokens', 'patches', 'block' and 'norm': where they are; and our parts of a
            block: the library's, three for a qkv that it keeps apart.
        state_dict (dict): Ours.
        extra_positions (int): 2 for a distilled DeiT.
    """
    cls_token, pos_embed = names['tokens']
    dims = state_dict['embed.cls_token'].shape[-1]
    own = torch.linspace(-1, 1, dims)
    others = torch.full((1, extra_positions - 1, dims), 7.0)
    positions = state_dict['embed.pos_embed'].flatten(2).transpose(1, 2)
    theirs = {
        cls_token: state_dict['embed.cls_token'] - own,
        pos_embed: torch.cat((own.expand(1, 1, dims), others, positions), dim=1),
    }
    for key, value in state_dict.items():
        place, _, leaf = key.rpartition('.')
        if place == 'embed.proj':
            theirs[f'{names["patches"]}.{leaf}'] = value
        elif place == 'norm':
            theirs[f'{names["norm"]}.{leaf}'] = value
        elif place.startswith('blocks'):
            _, block, part = place.split('.', 2)
            parts = names[part]
            parts = (parts,) if isinstance(parts, str) else parts
            for name, piece in zip(parts, value.chunk(len(parts)), strict=True):
                theirs[f'{names["block"]}.{block}.{name}.{leaf}'] = piece
    return theirs


TIMM_VIT = {
    'tokens': ('cls_token', 'pos_embed'),
    'patches': 'patch_embed.proj',
    'block': 'blocks',
    'norm': 'norm',
    'norm1': 'norm1',
    'norm2': 'norm2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'mlp.up': 'mlp.fc1',
    'mlp.down': 'mlp.fc2',
}
MMPRETRAIN_VIT = {
    'tokens': ('backbone.cls_token', 'backbone.pos_embed'),
    'patches': 'backbone.patch_embed.projection',
    'block': 'backbone.layers',
    'norm': 'backbone.ln1',
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'mlp.up': 'ffn.layers.0.0',
    'mlp.down': 'ffn.layers.1',
}
TRANSFORMERS_VIT = {
    'tokens': ('vit.embeddings.cls_token', 'vit.embeddings.position_embeddings'),
    'patches': 'vit.embeddings.patch_embeddings.projection',
    'block': 'vit.encoder.layer',
    'norm': 'vit.layernorm',
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.qkv': [f'attention.attention.{name}' for name in ('query', 'key', 'value')],
    'attn.proj': 'attention.output.dense',
    'mlp.up': 'intermediate.dense',
    'mlp.down': 'output.dense',
}
TRANSFORMERS_5_DEIT = {
    'tokens': ('deit.embeddings.cls_token', 'deit.embeddings.position_embeddings'),
    'patches': 'deit.embeddings.patch_embeddings.projection',
    'block': 'deit.layers',
    'norm': 'deit.layernorm',
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.qkv': [f'attention.{name}_proj' for name in 'qkv'],
    'attn.proj': 'attention.o_proj',
    'mlp.up': 'mlp.fc1',
    'mlp.down': 'mlp.fc2',
}
ONE = torch.ones(1)
MAE_EXTRA = {
    'mask_token': torch.ones(1, 1, 8),
    'decoder_pos_embed': torch.ones(1, 37, 8),
    'decoder_embed.weight': ONE,
    'decoder_blocks.0.norm1.weight': ONE,
    'decoder_blocks.0.attn.qkv.weight': ONE,
    'decoder_norm.bias': ONE,
    'decoder_pred.bias': ONE,
}
LAYOUTS = {  # names, keys without a counterpart, positions that are not patches', prefix
    'DeiT, timm': (TIMM_VIT, {'head.weight': ONE, 'head.bias': ONE}, 1, ''),
    'distilled DeiT': (TIMM_VIT, {'dist_token': ONE, 'head_dist.weight': ONE}, 2, ''),
    'MAE': (TIMM_VIT, MAE_EXTRA, 1, ''),
    'mmpretrain': (MMPRETRAIN_VIT, {'backbone.ln2.weight': ONE}, 1, 'backbone'),
    'transformers 4': (
        TRANSFORMERS_VIT,
        {'vit.pooler.dense.weight': ONE, 'decoder.decoder_layers.0.mlp.fc1.weight': ONE},
        1,
        '',
    ),
    'transformers 5': (
        TRANSFORMERS_5_DEIT,
        {'deit.embeddings.distillation_token': ONE, 'cls_classifier.bias': ONE},
        2,
        '',
    ),
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('container', [None, 'model'])
def test_vit_layouts(tmp_path, messages, layout, container):
    """Every layout gives the features of the model that it was made from, in both forms."""
    names, extra, extra_positions, prefix = LAYOUTS[layout]
    original, path = vit(), tmp_path / 'vit.pth'
    theirs = {**vit_in_layout_of(names, original.state_dict(), extra_positions), **extra}
    if prefix:
        theirs['neck.decoder_blocks.0.ln1.weight'] = ONE  # not below the prefix, not counted
    torch.save({container: theirs} if container else theirs, path)
    init_cfg = pretrained(path, **dict(prefix=prefix) if prefix else {})
    x = torch.randn(1, 3, 96, 64)
    for attn in (SOFTMAX, dict(type='CastlingAttention')):
        model = CastlingViT(VIT_ARCH, attn, pos_grid=6, init_cfg=init_cfg).eval()
        reference = CastlingViT(VIT_ARCH, attn, pos_grid=6).eval()
        reference.load_state_dict(model.state_dict())  # the convolutions, which no file has
        reference.load_state_dict(original.state_dict(), strict=False)
        model.init_weights()
        with torch.no_grad():
            (ours,), (expected,) = model(x), reference(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours, expected)
    softmax, castling = (m for m in messages if str(path) in m)
    number = len(original.state_dict())
    filled, unused = 'weights of the model filled', f'{len(extra)} others of the file are not used'
    assert f': {number} of {number} {filled}; {unused}' in softmax
    new = '11 of the linear attention are new'
    assert f': {number} of {number + 11} {filled}; {new}; {unused}' in castling


def test_vit_without_class_token(tmp_path, messages):
    """The token of the file is counted as not used; positions of patches alone are read too."""
    original, path = vit(with_cls_token=False), tmp_path / 'vit.pth'
    with_token = dict(original.state_dict(), **{'embed.cls_token': torch.ones(1, 1, 16)})
    theirs = vit_in_layout_of(TIMM_VIT, with_token)
    patches_alone = {key: value for key, value in theirs.items() if key != 'cls_token'}
    patches_alone['pos_embed'] = theirs['pos_embed'][:, 1:]
    for state_dict, unused in ((theirs, 'not used (embed.cls_token)'), (patches_alone, 'filled')):
        torch.save(state_dict, path)
        model = CastlingViT(
            VIT_ARCH, SOFTMAX, pos_grid=6, with_cls_token=False, init_cfg=pretrained(path)
        )
        model.init_weights()
        for key, value in original.state_dict().items():
            torch.testing.assert_close(model.state_dict()[key], value)
        assert messages[-1].endswith(unused)


def test_own_vit_layout_passes(tmp_path, messages):
    """From a segmentor's file; what a smaller choice of maps does not build is said."""
    original, path = vit(attn=dict(type='CastlingAttention')), tmp_path / 'segmentor.pth'
    expected = original.state_dict()
    assert vit_state_dict(expected) == dict(expected)
    segmentor = {f'backbone.{key}': value for key, value in expected.items()}
    torch.save(dict(state_dict={**segmentor, 'decode_head.norm.weight': ONE}), path)
    model = vit(
        dict(type='CastlingAttention'),
        out_indices=(9,),
        init_cfg=pretrained(path, prefix='backbone'),
    )
    for value in model.state_dict().values():
        value.zero_()
    model.init_weights()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    later = 'of blocks after the last that is built are not used (blocks.10)'
    others = '2 others of the file are not used (norm)'
    assert messages[-1].endswith(f'filled; 13 {later}; {others}')


def test_positions_keep_their_grid():
    theirs = vit_in_layout_of(TIMM_VIT, vit(pos_grid=9).state_dict())
    assert vit_state_dict(theirs)['embed.pos_embed'].shape == (1, 16, 9, 9)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(patch_size=32, pos_grid=3), r'patch size 32, and only 16 is read; '),
        (dict(arch=dict(VIT_ARCH, embed_dims=24)), r'\(24, 3, 16, 16\).*\(16, 3, 16, 16\).*arch'),
        (dict(pos_grid=(3, 7)), r'its positions, 21 without .*, are no square grid'),
    ],
    ids=['patch size', 'embed dims', 'no square grid'],
)
def test_another_vit_is_an_error_and_loads_nothing(tmp_path, monkeypatch, change, message):
    path = tmp_path / 'other.pth'
    with monkeypatch.context() as patch:
        patch.setattr(CastlingViT, 'patch_size', change.pop('patch_size', 16))
        other = vit(**change)
    torch.save(vit_in_layout_of(TIMM_VIT, other.state_dict()), path)
    model = vit(init_cfg=pretrained(path))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r'other\.pth does not fit CastlingViT: .*' + message):
        model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_vit_needs_its_prefix(tmp_path):
    path = tmp_path / 'mae.pth'
    torch.save(vit_in_layout_of(MMPRETRAIN_VIT, vit().state_dict()), path)
    with pytest.raises(ValueError, match=r'mae\.pth .*: none of its .* prefix'):
        vit(init_cfg=pretrained(path)).init_weights()


def test_positions_of_another_grid_are_resized(tmp_path, messages):
    """As the model does where an image has another grid; also from and to grids not square."""
    trained, path = vit(pos_grid=(4, 6)), tmp_path / 'vit.pth'
    torch.save(trained.state_dict(), path)
    model = vit(pos_grid=(3, 5), init_cfg=pretrained(path))
    model.init_weights()
    assert torch.equal(model.embed.pos_embed, trained.embed._positions((3, 5)))
    assert 'embed.pos_embed is resized from 4x6 to 3x5' in messages[-1]
    x = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        torch.testing.assert_close(model(x), trained(x))


def test_logit_biases_of_another_grid_are_resized(tmp_path, messages):
    trained, path = levit().eval(), tmp_path / 'levit.pth'
    torch.save(in_layout_of(authors_keys(), trained.state_dict()), path)
    model = CastlingLeViT(ARCH, SOFTMAX, bias_grid=(4, 8), init_cfg=pretrained(path)).eval()
    model.init_weights()
    assert 'stages.0.blocks.0.attn.bias.table is resized from 6x6 to 4x8' in messages[-1]
    x = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        torch.testing.assert_close(model(x), trained(x))


def test_init_cfg_may_be_a_list(tmp_path):
    """One file; what else there is goes before it."""
    path = tmp_path / 'vit.pth'
    original = vit().state_dict()
    torch.save(vit_in_layout_of(TIMM_VIT, original), path)
    constant = dict(type='Constant', layer='TokenConv', val=0.5)
    cfgs = [pretrained(path), dict(constant, layer=['TokenConv', 'Linear'])]
    model = CastlingViT(VIT_ARCH, pos_grid=6, init_cfg=cfgs)
    model.init_weights()
    for key, value in model.state_dict().items():
        is_new = key.endswith('attn.conv.weight')
        torch.testing.assert_close(value, torch.full_like(value, 0.5) if is_new else original[key])
    with pytest.raises(InputError, match='init_cfg has 2 of type Pretrained'):
        vit(init_cfg=[pretrained(path), pretrained(path)]).init_weights()
    with pytest.raises(TypeError, match='prefx'):
        vit(init_cfg=pretrained(path, prefx='backbone')).init_weights()


def test_published_castling_vit(tmp_path):
    """Its convolution is `dconv`, and its q, k and v have no bias, which is one of zero."""
    model = vit(dict(type='CastlingAttention'))
    theirs = {}
    for key, value in vit_in_layout_of(
        TIMM_VIT | {'attn.attn.conv': 'attn.dconv'}, model.state_dict()
    ).items():
        if not key.endswith('qkv.bias'):
            theirs[key] = value
    torch.save(theirs, tmp_path / 'castling.pth')
    other = CastlingViT(VIT_ARCH, pos_grid=6, init_cfg=pretrained(tmp_path / 'castling.pth'))
    other.init_weights()
    for key, value in other.state_dict().items():
        expected = model.state_dict()[key]
        torch.testing.assert_close(value, expected * (not key.endswith('qkv.bias')))


TINY = dict(embed_dim=32, depth=2, num_heads=2)
TINY_ARCH = dict(embed_dims=32, num_heads=2, depths=2)


def random_(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model.eval()


def from_timm(name, **config):
    return random_(timm.create_model(name, pretrained=False, num_classes=3, **TINY, **config))


def from_transformers(config, model, **arguments):
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    config = getattr(transformers, config)(image_size=224, patch_size=16, **sizes, **arguments)
    return random_(getattr(transformers, model)(config))


def loaded(state_dict, path, attn=SOFTMAX, **config):
    """A tiny ViT with weights that were saved as safetensors."""
    save_file({key: value.contiguous() for key, value in state_dict.items()}, path)
    model = CastlingViT(TINY_ARCH, attn, init_cfg=pretrained(path), **config).eval()
    model.init_weights()
    return model


@pytest.mark.parametrize(
    ('name', 'config', 'unused'),
    [
        ('vit_tiny_patch16_224', {}, '2 others'),
        ('vit_tiny_patch16_224', dict(qkv_bias=False), '2 others'),
        ('deit_tiny_distilled_patch16_224', {}, '5 others'),
        ('vit_base_patch16_siglip_224', dict(act_layer='gelu'), '15 others'),
        ('vit_base_patch16_224', dict(global_pool='avg', class_token=False), '4 others'),
    ],
)
def test_models_of_timm(tmp_path, messages, name, config, unused):
    """The features of timm's own model. A distilled one mixes a token that ours has not."""
    theirs = from_timm(name, **config)
    with_token = hasattr(theirs, 'cls_token') and theirs.cls_token is not None
    options = dict(with_cls_token=with_token, final_norm=config.get('global_pool') != 'avg')
    ours = loaded(theirs.state_dict(), tmp_path / 'vit.safetensors', **options)
    assert f'filled; {unused} of the file' in messages[-1]
    if 'distilled' in name:
        return
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = theirs.forward_features(x)[:, int(with_token) :]
        torch.testing.assert_close(ours(x)[0].flatten(2).mT, tokens, rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', ['ViT', 'ViTMAE', 'DeiT', 'ViTMSN', 'IJepa'])
def test_models_of_transformers(tmp_path, name):
    whole = dict(ViTMAE='ForPreTraining', DeiT='ForImageClassification').get(name, 'Model')
    options = dict(mask_ratio=0) if name == 'ViTMAE' else {}
    theirs = from_transformers(f'{name}Config', f'{name}{whole}', **options)
    with_token = name != 'IJepa'
    ours = loaded(theirs.state_dict(), tmp_path / 'vit.safetensors', with_cls_token=with_token)
    if name == 'DeiT':  # it mixes a token that ours has not
        return
    x = torch.randn(1, 3, 224, 224)
    layer_norm_eps = 1e-12
    for module in ours.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = getattr(theirs.config, 'layer_norm_eps', layer_norm_eps)
    with torch.no_grad():
        if name == 'ViTMAE':  # the encoder, which hides no patch and leaves them in order
            theirs = partial(theirs.vit, noise=torch.arange(196.0)[None])
        tokens = theirs(x).last_hidden_state[:, int(with_token) :]
        torch.testing.assert_close(ours(x)[0].flatten(2).mT, tokens, rtol=0, atol=1e-4)


def test_arrays_of_jax(tmp_path, jax_arrays):
    """Random ones of every name, as timm's own reader of the same file has them."""
    np.savez(tmp_path / 'vit.npz', **jax_arrays(patch_size=16, tokens=197))
    theirs = from_timm('vit_tiny_patch16_224')
    theirs.load_pretrained(str(tmp_path / 'vit.npz'))
    expected = vit_state_dict(theirs.state_dict())
    ours = CastlingViT(TINY_ARCH, SOFTMAX, init_cfg=pretrained(tmp_path / 'vit.npz'))
    ours.init_weights()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, expected[key]), key


REFUSED = {  # name: model, what the error names
    'DINOv2 of timm': (
        lambda: from_timm('vit_small_patch14_dinov2', img_size=56),
        r'lacks LayerScale \(blocks\.\*\.ls1\.gamma, blocks\.\*\.ls2\.gamma\); .*patch size 14',
    ),
    'DINOv2 with registers and a gated MLP of timm': (
        lambda: from_timm('vit_giant_patch14_reg4_dinov2', img_size=56),
        r'LayerScale .* register tokens \(reg_token\), a gated MLP \(.*\); .*patch size 14',
    ),
    'DINOv3 of timm': (
        lambda: from_timm('vit_small_patch16_dinov3'),
        r'LayerScale \(blocks\.\*\.gamma_1, .*register tokens.*the file lacks embed\.pos_embed',
    ),
    'norms of q and k': (
        lambda: from_timm('vit_small_patch16_224', qk_norm=True),
        r'lacks norms of q and k \(blocks\.\*\.attn\.k_norm, blocks\.\*\.attn\.q_norm\);',
    ),
    'CLIP of timm': (
        lambda: from_timm('vit_base_patch16_clip_224'),
        r'lacks a norm before the blocks \(norm_pre\); the file lacks embed\.proj\.bias',
    ),
    'BEiT of timm': (
        lambda: from_timm('beit_base_patch16_224'),
        r'LayerScale .*, relative positions \(.*relative_position_bias_table\), biases of q or v',
    ),
    'EVA-02 of timm': (
        lambda: from_timm('eva02_base_patch16_clip_224', img_size=32),
        r'a gated MLP \(blocks\.\*\.mlp\.fc1_g, blocks\.\*\.mlp\.fc1_x\), blocks\.\*\.attn\.',
    ),
    'DeiT III of timm': (lambda: from_timm('deit3_small_patch16_224'), r'LayerScale \('),
    'rotary positions of timm': (
        lambda: from_timm('vit_small_patch16_rope_mixed_224'),
        r'LayerScale .*, rotary positions \(rope\.freqs\); the file lacks embed\.pos_embed',
    ),
    'SAM of timm': (
        lambda: from_timm('samvit_base_patch16', img_size=224),
        r'relative positions \(blocks\.\*\.attn\.rel_pos_h',
    ),
    'relpos of timm': (
        lambda: from_timm('vit_relpos_small_patch16_224'),
        r'relative positions',
    ),
    'data2vec of transformers': (
        lambda: from_transformers(
            'Data2VecVisionConfig', 'Data2VecVisionModel', use_relative_position_bias=True
        ),
        r'LayerScale .*relative positions',
    ),
    'without a class token': (
        lambda: from_timm('vit_base_patch16_siglip_224'),
        r'the file lacks embed\.cls_token; set with_cls_token=False$',
    ),
    'another patch size': (
        lambda: from_timm('vit_small_patch32_224'),
        r'CastlingViT: the file has patch size 32, and only 16 is read; ',
    ),
    'DINOv2 of transformers': (
        lambda: from_transformers('Dinov2Config', 'Dinov2Model'),
        r'LayerScale \(blocks\.\*\.layer_scale1\.lambda1, ',
    ),
    'SwiGLU of transformers': (
        lambda: from_transformers('Dinov2Config', 'Dinov2Model', use_swiglu_ffn=True),
        r'LayerScale .*a gated MLP \(blocks\.\*\.mlp\.weights_in\)',
    ),
    'DINOv3 of transformers': (
        lambda: from_transformers('DINOv3ViTConfig', 'DINOv3ViTModel', use_gated_mlp=True),
        r'LayerScale .*register tokens .*a gated MLP .*the file lacks embed\.pos_embed',
    ),
    'BEiT of transformers': (
        lambda: from_transformers('BeitConfig', 'BeitModel', use_relative_position_bias=True),
        r'LayerScale \(blocks\.\*\.lambda_1, .*relative positions',
    ),
    'DINOv2 with registers of transformers': (
        lambda: from_transformers('Dinov2WithRegistersConfig', 'Dinov2WithRegistersModel'),
        r'LayerScale .*register tokens \(.*register_tokens\)',
    ),
    'SigLIP of transformers': (
        lambda: from_transformers('SiglipVisionConfig', 'SiglipVisionModel'),
        r'of another model: none of its \d+ keys',
    ),
    'CLIP of transformers': (
        lambda: from_transformers('CLIPVisionConfig', 'CLIPVisionModel'),
        r'of another model: none of its 39 keys \(a norm before the blocks \(.*pre_layrnorm\)',
    ),
}


@pytest.mark.parametrize('name', REFUSED)
@pytest.mark.parametrize('attn', ['SoftmaxAttention', 'CastlingAttention'])
def test_other_vits_are_refused_by_what_ours_lacks(tmp_path, name, attn):
    build, message = REFUSED[name]
    with pytest.raises(InputError, match=r'vit\.safetensors .*' + message):
        loaded(build().state_dict(), tmp_path / 'vit.safetensors', dict(type=attn))


def test_levit_with_convolutions_is_refused(tmp_path):
    sizes = dict(embed_dim=ARCH['embed_dims'], num_heads=ARCH['num_heads'], depth=ARCH['depths'])
    theirs = timm.create_model('levit_conv_128s', img_size=96, key_dim=8, **sizes)
    save_file(theirs.state_dict(), tmp_path / 'levit.safetensors')
    with pytest.raises(
        InputError, match=r'has \(\d+, \d+, 1, 1\) where the model has \(\d+, \d+\)'
    ):
        levit(init_cfg=pretrained(tmp_path / 'levit.safetensors')).init_weights()


@pytest.mark.skipif('CASTLING_DET_WEIGHTS' not in os.environ, reason='CASTLING_DET_WEIGHTS not set')
def test_a_real_dinov2_is_refused():
    path = Path(os.environ['CASTLING_DET_WEIGHTS']) / 'vit_s14.safetensors'
    with pytest.raises(InputError, match=r'vit_s14.* LayerScale .*patch size 14, and only 16'):
        CastlingViT('deit-small', init_cfg=pretrained(path)).init_weights()


def test_blocks_that_a_file_or_the_model_lacks_are_an_error(tmp_path):
    """A shallower model's file, and a deeper one's, whatever `out_indices` is."""
    path = tmp_path / 'vit.pth'
    torch.save(vit_in_layout_of(TIMM_VIT, vit(arch=dict(VIT_ARCH, depths=13)).state_dict()), path)
    for options, last in ((dict(), 10), (dict(final_norm=False), 10), (dict(out_indices=(3,)), 3)):
        model = vit(init_cfg=pretrained(path), **options)
        assert len(model.blocks) == last + 1
        with pytest.raises(InputError, match=r'the model ends before blocks\.11, blocks\.12 of'):
            model.init_weights()
    torch.save(vit_in_layout_of(TIMM_VIT, vit(arch=dict(VIT_ARCH, depths=9)).state_dict()), path)
    with pytest.raises(InputError, match=r'the file lacks blocks\.\*\.norm1, .* and 2 more'):
        vit(init_cfg=pretrained(path)).init_weights()


def test_castling_weights_do_not_fill_the_softmax_twin(tmp_path):
    path = tmp_path / 'castling.pth'
    torch.save(vit(dict(type='CastlingAttention')).state_dict(), path)
    with pytest.raises(InputError, match=r'the model lacks blocks\.\*\.attn\.attn\.conv\.weight;'):
        vit(init_cfg=pretrained(path)).init_weights()
    path = tmp_path / 'levit.pth'
    torch.save(levit(dict(type='CastlingAttention')).state_dict(), path)
    with pytest.raises(
        InputError, match=r'the file lacks stages\.\*\.blocks\.\*\.attn\.bias\.table'
    ):
        levit(init_cfg=pretrained(path)).init_weights()
