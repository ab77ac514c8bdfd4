import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from castling_det.models import CastlingLeViT, CastlingViT

LR, DECAY, RATE = 0.1, 0.05, 0.5
TINY_VIT = dict(embed_dims=16, num_heads=2, depths=2)


class Segmentor(nn.Module):
    """A backbone, and a head whose names look like the backbone's."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Sequential()
        self.decode_head.embed = nn.Conv2d(16, 8, 1)
        self.decode_head.query = nn.Embedding(4, 8)
        self.decode_head.norm = nn.GroupNorm(2, 8)


def groups(model, optimizer=None, **paramwise_cfg):
    """(learning rate, weight decay) of each trained parameter."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='LayerDecayOptimWrapperConstructor',
            optimizer=optimizer or dict(type='AdamW', lr=LR, weight_decay=DECAY),
            paramwise_cfg=paramwise_cfg,
        ),
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


def expect(settings, name, lr, decay):
    assert settings[name] == pytest.approx((lr, decay)), name


def test_castling_vit():
    """Two blocks are four layers: embedding, the blocks, what stands behind them."""
    model = Segmentor(CastlingViT(TINY_VIT))
    settings = groups(model, layer_decay_rate=RATE)
    assert settings.keys() == {name for name, _ in model.named_parameters()}
    expect(settings, 'backbone.embed.proj.weight', 0.0125, 0.05)
    expect(settings, 'backbone.embed.proj.bias', 0.0125, 0)
    expect(settings, 'backbone.embed.pos_embed', 0.0125, 0)
    expect(settings, 'backbone.embed.cls_token', 0.0125, 0)
    for block, lr in ((0, 0.025), (1, 0.05)):
        expect(settings, f'backbone.blocks.{block}.norm1.weight', lr, 0)
        expect(settings, f'backbone.blocks.{block}.attn.qkv.weight', lr, 0.05)
        expect(settings, f'backbone.blocks.{block}.attn.qkv.bias', lr, 0)
        expect(settings, f'backbone.blocks.{block}.attn.attn.conv.weight', lr, 0.05)
        expect(settings, f'backbone.blocks.{block}.mlp.down.weight', lr, 0.05)
    expect(settings, 'backbone.norm.weight', 0.1, 0)
    expect(settings, 'decode_head.embed.weight', 0.1, 0.05)
    expect(settings, 'decode_head.embed.bias', 0.1, 0)
    expect(settings, 'decode_head.query.weight', 0.1, 0.05)
    expect(settings, 'decode_head.norm.weight', 0.1, 0)


def test_castling_levit():
    """Seven layers: stem, a block, twice a downsampling and a block, and what stands behind."""
    arch = dict(embed_dims=(8, 16, 16), num_heads=(2, 2, 2), depths=(1, 1, 1), key_dims=4)
    model = Segmentor(CastlingLeViT(arch, dict(type='SoftmaxAttention')))
    settings = groups(model, layer_decay_rate=RATE)
    assert settings.keys() == {name for name, _ in model.named_parameters()}
    layers = (
        ('stem.convs.0.conv.weight', 'stem.convs.3.bn.bias'),
        ('stages.0.blocks.0.attn.qkv.linear.weight', 'stages.0.blocks.0.attn.bias.table'),
        ('stages.1.downsample.attn.kv.linear.weight', 'stages.1.downsample.mlp.up.bn.weight'),
        ('stages.1.blocks.0.mlp.down.linear.weight', 'stages.1.blocks.0.attn.bias.table'),
        ('stages.2.downsample.attn.q.linear.weight', 'stages.2.downsample.attn.bias.table'),
        ('stages.2.blocks.0.attn.proj.linear.weight', 'stages.2.blocks.0.attn.proj.bn.bias'),
    )
    lrs = (0.0015625, 0.003125, 0.00625, 0.0125, 0.025, 0.05)
    for (decayed, never_decayed), lr in zip(layers, lrs, strict=True):
        expect(settings, f'backbone.{decayed}', lr, 0.05)
        expect(settings, f'backbone.{never_decayed}', lr, 0)
    expect(settings, 'decode_head.embed.weight', 0.1, 0.05)


def test_custom_keys_multiply():
    """What mmengine's constructor sets is scaled by layer, not replaced."""
    settings = groups(
        Segmentor(CastlingViT(TINY_VIT)),
        layer_decay_rate=RATE,
        custom_keys={'backbone': dict(lr_mult=0.1), 'query': dict(lr_mult=2, decay_mult=0)},
    )
    expect(settings, 'backbone.embed.pos_embed', 0.00125, 0)
    expect(settings, 'backbone.blocks.1.mlp.up.weight', 0.005, 0.05)
    expect(settings, 'decode_head.query.weight', 0.2, 0)
    expect(settings, 'decode_head.embed.weight', 0.1, 0.05)


def test_rate_one_and_no_weight_decay():
    settings = groups(Segmentor(CastlingViT(TINY_VIT)), dict(type='SGD', lr=LR), layer_decay_rate=1)
    assert set(settings.values()) == {(LR, 0)}


def test_frozen_layers_are_left_out():
    model = Segmentor(CastlingViT(TINY_VIT, frozen_stages=1))
    settings = groups(model, layer_decay_rate=RATE)
    assert settings.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any('embed.proj' in name or 'blocks.0' in name for name in settings)
    expect(settings, 'backbone.blocks.1.mlp.up.weight', 0.05, 0.05)


def test_a_step_is_as_large_as_its_layer_says():
    """SGD on gradients of one: each parameter moves by its own learning rate."""
    model = Segmentor(CastlingViT(TINY_VIT))
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=LR),
            paramwise_cfg=dict(layer_decay_rate=RATE),
        ),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert wrapper.get_lr()['base_lr'] == [LR]  # what the log shows
    wrapper.update_params(sum(parameter.sum() for parameter in model.parameters()))
    for name, lr in (('backbone.embed.proj.weight', 0.0125), ('decode_head.embed.bias', 0.1)):
        moved = before[name] - model.state_dict()[name]
        torch.testing.assert_close(moved, torch.full_like(moved, lr))


@pytest.mark.parametrize('rate', [None, 0, 1.5, -0.5])
def test_a_rate_that_is_none(rate):
    with pytest.raises(ValueError, match=f'layer_decay_rate.*got {rate}'):
        groups(Segmentor(CastlingViT(TINY_VIT)), layer_decay_rate=rate)


def test_lr_is_needed():
    with pytest.raises(ValueError, match='needs the lr'):
        groups(Segmentor(CastlingViT(TINY_VIT)), dict(type='AdamW'), layer_decay_rate=RATE)


def test_a_backbone_that_does_not_know_its_layers():
    with pytest.raises(ValueError, match=r'get_layer_depth.*Segmentor\.backbone is Conv2d'):
        groups(Segmentor(nn.Conv2d(3, 16, 3)), layer_decay_rate=RATE)
    with pytest.raises(ValueError, match=r'get_layer_depth.*Linear\.backbone is NoneType'):
        groups(nn.Linear(2, 2), layer_decay_rate=RATE)
