import json
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.nn import functional as F

from castling_det import training_form
from castling_det.analysis.complexity import (
    OWN,
    Complexity,
    count_complexity,
    count_config,
    count_forms,
)
from castling_det.configs import input_shape
from castling_det.errors import InputError
from castling_det.models import CastlingAttention, CastlingLeViT, SelfAttention, SoftmaxAttention

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'castling_picodet'
SOFTMAX = dict(type='SoftmaxAttention')
SEGMENTOR = dict(
    type='EncoderDecoder',
    backbone=dict(type='CastlingLeViT', arch='nano', attn=dict(type='CastlingAttention')),
    decode_head=dict(
        type='FCNHead',
        in_channels=192,
        in_index=3,
        channels=16,
        num_convs=1,
        concat_input=False,
        num_classes=5,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)


@pytest.mark.parametrize(
    ('arch', 'macs', 'params'),
    [
        ('128s', 305e6, 7.8e6),
        ('128', 406e6, 9.2e6),
        ('192', 658e6, 11e6),
        ('256', 1120e6, 19e6),
        ('384', 2353e6, 39e6),
    ],
)
def test_softmax_twin_against_the_authors_table(arch, macs, params):
    """With their two heads, batch norm and linear layer each; their counts have two digits."""
    model = CastlingLeViT(arch, SOFTMAX, out_indices=(3,))
    complexity = count_complexity(model, torch.zeros(1, 3, 224, 224))
    dims = model.arch_zoo[arch]['embed_dims'][-1]
    assert complexity.macs + 2 * 1000 * dims == pytest.approx(macs, rel=0.01)
    digit = 0.05e6 if params < 10e6 else 0.5e6
    with_heads = complexity.params + 2 * (2 * dims + 1000 * dims + 1000)
    assert abs(with_heads - params) <= digit


def hand_count(arch, height, width):
    """MACs and parameters of the castling LeViT from the shapes of its layers alone."""
    sizes = CastlingLeViT.arch_zoo[arch]
    key = sizes['key_dims']
    macs = params = 0

    def linear_bn(tokens, dims_in, dims_out):
        nonlocal macs, params
        macs += tokens * dims_in * dims_out
        params += dims_in * dims_out + 2 * dims_out

    def attention(num_queries, num_keys, heads, value):
        nonlocal macs, params
        macs += heads * (num_keys * key * value + num_queries * key * value)
        macs += 9 * num_keys * value * heads
        params += 9 * heads

    def mlp(tokens, dims):
        linear_bn(tokens, dims, 2 * dims)
        linear_bn(tokens, 2 * dims, dims)

    dims = sizes['embed_dims'][0]
    widths = [3, dims // 8, dims // 4, dims // 2, dims]
    for dims_in, dims_out in zip(widths, widths[1:], strict=False):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        macs += 9 * dims_in * dims_out * height * width
        params += 9 * dims_in * dims_out + 2 * dims_out
    tokens = height * width
    for stage, dims in enumerate(sizes['embed_dims']):
        if stage:
            dims_in, num_keys = sizes['embed_dims'][stage - 1], tokens
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            tokens, heads, value = height * width, dims_in // key, 4 * key
            linear_bn(tokens, dims_in, heads * key)
            linear_bn(num_keys, dims_in, heads * (key + value))
            attention(tokens, num_keys, heads, value)
            linear_bn(tokens, heads * value, dims)
            mlp(tokens, dims)
        heads, value = sizes['num_heads'][stage], 2 * key
        for _ in range(sizes['depths'][stage]):
            linear_bn(tokens, dims, heads * (2 * key + value))
            attention(tokens, tokens, heads, value)
            linear_bn(tokens, heads * value, dims)
            mlp(tokens, dims)
    return macs, params


@pytest.mark.parametrize(
    ('arch', 'height', 'width'), [('128s', 224, 224), ('192', 161, 250), ('nano', 64, 96)]
)
def test_castling_form_equals_a_hand_count(arch, height, width):
    complexity = count_complexity(CastlingLeViT(arch), torch.zeros(1, 3, height, width))
    assert (complexity.macs, complexity.params) == hand_count(arch, height, width)


def test_batch_multiplies():
    model = SelfAttention(8, 2)
    one, three = (count_complexity(model, torch.zeros(batch, 16, 8)) for batch in (1, 3))
    assert three.macs == 3 * one.macs and three.params == one.params


def softmax_macs(height, width):
    """Of nano's softmax attentions by hand: Nq Nk (Dk + Dv) a head, in every attention."""
    grids = [math.ceil(height / s) * math.ceil(width / s) for s in (16, 32, 64)]
    zoo = CastlingLeViT.arch_zoo['nano']
    key, blocks = zoo['key_dims'], zip(grids, zoo['num_heads'], zoo['depths'], strict=True)
    macs = sum(depth * heads * n * n * (key + 2 * key) for n, heads, depth in blocks)
    for num_keys, num_queries, dims in zip(grids, grids[1:], zoo['embed_dims'], strict=False):
        macs += dims // key * num_queries * num_keys * (key + 4 * key)
    return macs


def test_training_form_counts_aux():
    """As many MACs more as softmax attention has; nothing at ramp 1."""
    model, x = CastlingLeViT('nano').eval(), torch.zeros(1, 3, 96, 160)
    inference = count_complexity(model, x)
    with training_form(model):
        training = count_complexity(model, x)
    assert training.macs - inference.macs == softmax_macs(96, 160)
    assert training.params == inference.params
    for module in model.modules():
        if isinstance(module, CastlingAttention):
            module.ramp = 1.0
    with training_form(model):
        assert count_complexity(model, x) == inference


def test_model_in_training_is_counted_in_the_inference_form():
    model, x = CastlingLeViT('nano'), torch.zeros(1, 3, 64, 64)
    assert count_complexity(model.train(), x) == count_complexity(model.eval(), x)


class ExplicitAttention(nn.Module):
    def forward(self, q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class FusedAttention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize('bias', [None, torch.zeros(3, 5, 7)])
def test_fused_attention_counts_as_the_explicit_one(bias):
    q, k, v = torch.ones(2, 3, 5, 4), torch.ones(2, 3, 7, 4), torch.ones(2, 3, 7, 6)
    explicit = count_complexity(ExplicitAttention(), q, k, v).macs
    assert explicit == 2 * 3 * 5 * 7 * (4 + 6)
    assert count_complexity(FusedAttention(), q, k, v).macs == explicit

    class Twin(nn.Module):
        def forward(self, q, k, v):
            return SoftmaxAttention(3, 4, 6)(q, k, v, bias=bias)

    assert count_complexity(Twin(), q, k, v).macs == explicit


class MaskedAttention(nn.Module):
    """torch's own attention, as Mask2Former's decoder has it."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, q, kv, mask=None):
        return self.attn(q, kv, kv, attn_mask=mask)[0]


def test_masked_attention_counts_as_the_plain_one():
    """Five queries on seven keys of two heads: two products beside the four projections."""
    q, kv = torch.ones(3, 5, 8), torch.ones(3, 7, 8)
    plain = count_complexity(MaskedAttention(), q, kv).macs
    assert plain == 3 * (2 * 5 * 8 * 8 + 2 * 7 * 8 * 8 + 2 * 5 * 7 * 8)
    masked = count_complexity(MaskedAttention(), q, kv, torch.zeros(3 * 2, 5, 7))
    assert masked.macs == plain


def test_norms_and_resizing_are_free():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm([4, 6, 6]),
        nn.Hardswish(),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode='bilinear'),
        nn.AdaptiveAvgPool2d(3),
        nn.Softmax(dim=1),
    )
    complexity = count_complexity(model, torch.ones(1, 4, 6, 6))
    assert complexity.macs == 6 * 6 * 4 * 4
    assert complexity.params == 16 + 8 + 8 + 8 + 2 * 4 * 6 * 6


def test_frozen_parameters_count():
    model = CastlingLeViT('nano')
    params = count_complexity(model, torch.zeros(1, 3, 64, 64)).params
    model.requires_grad_(False)
    assert count_complexity(model, torch.zeros(1, 3, 64, 64)).params == params > 0


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        raise RuntimeError('no forward')


@pytest.mark.parametrize('training', [True, False])
def test_modes_and_statistics_are_restored(training):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.Linear(2, 2)).train(training)
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    count_complexity(model, torch.ones(4, 2))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.append(Fails()).train()
    with pytest.raises(RuntimeError, match='no forward'):
        count_complexity(model, torch.ones(4, 2))
    assert all(module.training for module in model.modules())


def assert_parts_add_up(complexity: Complexity) -> None:
    if complexity.parts:
        assert complexity.params == sum(part.params for part in complexity.parts.values())
        assert complexity.macs == sum(part.macs for part in complexity.parts.values())
    for part in complexity.parts.values():
        assert_parts_add_up(part)


def test_parts_of_a_segmentor_add_up():
    """Backbone as alone; a 3x3 and a 1x1 convolution with bias on the last map."""
    forms = count_forms(Config(dict(model=SEGMENTOR, default_scope='mmseg')), (64, 96))
    for complexity in forms.values():
        assert_parts_add_up(complexity)
        assert list(complexity.parts) == ['backbone', 'decode_head']
    whole = forms['inference form']
    alone = count_complexity(CastlingLeViT('nano'), torch.zeros(1, 3, 64, 96))
    assert whole.parts['backbone'] == alone
    weights = 9 * 192 * 16 + 16 * 5
    assert whole.parts['decode_head'].params == weights + 16 + 5
    assert whole.parts['decode_head'].macs == 1 * 2 * weights


def test_forms_of_a_config():
    cfg = Config(dict(model=SEGMENTOR, default_scope='mmseg'))
    forms = count_forms(cfg, (64, 96))
    assert list(forms) == ['training form', 'inference form', 'softmax twin']
    training, inference, twin = forms.values()
    assert training.macs - inference.macs == softmax_macs(64, 96)
    assert training.params == inference.params
    backbone = CastlingLeViT('nano', SOFTMAX, bias_grid=(4, 6))
    assert twin.parts['backbone'] == count_complexity(backbone, torch.zeros(1, 3, 64, 96))
    assert twin.parts['decode_head'] == inference.parts['decode_head']
    assert cfg.model.to_dict() == SEGMENTOR
    cfg.model.backbone.attn = dict(type='FocalAttention')
    converted = count_forms(cfg, (64, 96))
    assert list(converted) == ['inference form', 'softmax twin']
    assert converted['softmax twin'] == twin
    cfg.model.backbone.update(attn=SOFTMAX, bias_grid=(4, 6))
    assert count_forms(cfg, (64, 96)) == {'inference form': twin}


class Twice(nn.Module):
    """One linear layer under two names, and a parameter and a product of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4, bias=False))
        self.second = nn.Sequential(self.first[0], nn.Linear(4, 3, bias=False))
        self.matrix = nn.Parameter(torch.zeros(3, 2))

    def forward(self, x):
        return self.second(self.first(x)) @ self.matrix


def test_shared_modules_and_what_belongs_to_no_part():
    whole = count_complexity(Twice(), torch.zeros(5, 4))
    assert_parts_add_up(whole)
    assert whole.params == 16 + 12 + 6 and whole.macs == 5 * (2 * 16 + 12 + 6)
    assert whole.parts['(own)'] == Complexity(6, 5 * 6)
    assert whole.by_part(depth=2) == {
        'first': whole.parts['first'],
        'first.0': Complexity(16, 5 * 2 * 16),
        'second': whole.parts['second'],
        'second.1': Complexity(12, 5 * 12),
        '(own)': whole.parts['(own)'],
    }


@pytest.mark.parametrize(
    ('pipeline', 'shape'),
    [
        ([dict(type='Resize', scale=(320, 64))], (64, 320)),
        ([dict(type='mmdet.Resize', scale=96, keep_ratio=False)], (96, 96)),
        (
            [dict(type='Resize', scale=(64, 96), keep_ratio=True), dict(type='Pad', size=(80, 96))],
            (96, 80),
        ),
        (
            [
                dict(type='Resize', scale=(64, 96), keep_ratio=True),
                dict(type='Pad', pad_to_square=True),
            ],
            (96, 96),
        ),
    ],
)
def test_input_shape_is_what_the_test_pipeline_makes(pipeline, shape):
    pipeline = [dict(type='LoadImageFromFile'), *pipeline, dict(type='PackDetInputs')]
    other = [dict(type='Resize', scale=(1, 1))]
    wrapped = dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=pipeline)))
    assert input_shape(Config(dict(test_pipeline=pipeline))) == shape
    assert input_shape(Config(dict(test_pipeline=other, test_dataloader=wrapped))) == shape


def test_input_shape_of_a_segmentor_is_its_crop_where_tests_keep_the_ratio():
    """The crop is height and width, as mmseg has it; a size that the test fixes comes first."""
    model = dict(data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 96)))
    resize = dict(type='Resize', scale=(2560, 640), keep_ratio=True)
    loader = dict(dataset=dict(pipeline=[resize]))
    assert input_shape(Config(dict(model=model, test_dataloader=loader))) == (64, 96)
    loader = dict(dataset=dict(pipeline=[dict(resize, keep_ratio=False)]))
    assert input_shape(Config(dict(model=model, test_dataloader=loader))) == (640, 2560)


@pytest.mark.parametrize(
    'content',
    [
        '',
        "test_pipeline = [dict(type='Resize', scale=(64, 96), keep_ratio=True)]",
        "test_pipeline = [dict(type='Pad', size_divisor=32)]",
        'model = dict(data_preprocessor=dict(size_divisor=32))',
    ],
)
def test_input_shape_of_each_image_is_refused(tmp_path, content):
    path = tmp_path / 'leaf.py'
    path.write_text(content)
    with pytest.raises(ValueError, match='leaf.py: test_dataloader.*--shape H W'):
        input_shape(Config.fromfile(path))


def test_tool(tmp_path, call, refusal):
    path = tmp_path / 'leaf.py'
    path.write_text(f"model = {SEGMENTOR}\ndefault_scope = 'mmseg'\n")

    words = ['get_complexity', path]
    sized = [*words, '--shape', 64, 96]
    forms = count_forms(Config.fromfile(path), (64, 96))
    content = json.loads(call(*sized, '--format', 'json'))[str(path)]
    assert content.pop('shape') == [64, 96]
    assert list(content) == list(forms)
    for form, complexity in forms.items():
        head = complexity.parts['decode_head']
        assert content[form]['whole'] == dict(params=complexity.params, macs=complexity.macs)
        assert content[form]['decode_head'] == dict(params=head.params, macs=head.macs)

    table = call(*sized, '--format', 'markdown', '--depth', 2)
    names = [line.split(' ')[1] for line in table.splitlines() if line.startswith('| ')]
    assert names[2:6] == ['whole', 'backbone', 'backbone.stem', 'backbone.stages']
    text = call(*sized).splitlines()
    assert text[0] == f'{path}, input 64x96'
    assert text[3].split()[:2] == ['whole', f'{forms["training form"].params / 1e6:.3f}']
    assert re.match('error: .*leaf.py: .*--shape H W', refusal(*words))


def test_softmax_twin_counts_as_its_config():
    name = 'picodet_levit-nano_1xb16-8e_shapes-64x512.py'
    ours, twin = (Config.fromfile(CONFIGS / f'{prefix}{name}') for prefix in ('castling-', ''))
    counted = count_forms(ours, (64, 512))['softmax twin']
    expected = count_config(twin, (64, 512))
    assert (counted.params, counted.macs) == (expected.params, expected.macs)


FOREIGN = {
    'faster_rcnn': (
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'neck=dict(in_channels=[64, 128, 256, 512]), '
        'test_cfg=dict(rpn=dict(max_per_img=700)), '
        'roi_head=dict(bbox_head=dict(fc_out_channels=8))',
        {'backbone', 'neck', 'rpn_head', 'roi_head'},
    ),
    'detr': (
        'mmdet::detr/detr_r50_8xb2-150e_coco.py',
        'neck=dict(in_channels=[512]), encoder=dict(num_layers=1), decoder=dict(num_layers=1)',
        {'backbone', 'neck', 'encoder', 'decoder', 'query_embedding', 'bbox_head'},
    ),
    'mask2former': (
        'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py',
        'decode_head=dict(in_channels=[64, 128, 256, 512], '
        'pixel_decoder=dict(encoder=dict(num_layers=1)), transformer_decoder=dict(num_layers=1))',
        {'backbone', 'decode_head'},
    ),
}


def foreign(folder: Path, name: str) -> Config:
    """A config of mmdet or mmseg itself on ResNet-18."""
    base, model, _ = FOREIGN[name]
    backbone = "backbone=dict(depth=18, init_cfg=None, norm_cfg=dict(type='BN'))"
    (folder / f'{name}.py').write_text(f'_base_ = {base!r}\nmodel = dict({backbone}, {model})\n')
    return Config.fromfile(folder / f'{name}.py')


@pytest.mark.parametrize('name', list(FOREIGN))
def test_two_stages_and_queries_are_counted(tmp_path, name):
    counted = count_forms(foreign(tmp_path, name), (64, 96))['inference form']
    assert set(counted.parts) - {OWN} == FOREIGN[name][2]
    assert_parts_add_up(counted)
    assert all(part.macs for key, part in counted.parts.items() if key != 'query_embedding')
    if name == 'faster_rcnn':  # of each of the 700 proposals: two hidden layers, classes and boxes
        assert counted.parts['roi_head'].macs == 700 * (256 * 49 * 8 + 8 * 8 + 8 * 81 + 8 * 320)


def test_what_cannot_be_counted_is_one_sentence(tmp_path):
    cfg = foreign(tmp_path, 'detr')
    cfg.model.neck.in_channels = [3]
    with pytest.raises(InputError, match='detr.py: DETR does not run on 64x96 px with mode='):
        count_forms(cfg, (64, 96))
