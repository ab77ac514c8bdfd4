"""The head: mmseg's own modules, maps alone, whole images and sliding windows."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.structures import SegDataSample

import castling_det.segmentation  # noqa: F401

PUBLISHED = 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
BASE = 'configs/_base_/models/castling-mask2former'


@pytest.fixture(scope='module')
def root(request):
    return request.config.rootpath


@pytest.fixture(scope='module')
def nano(root):
    cfg = Config.fromfile(root / f'{BASE}-nano_vit-nano.py')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.eval()
    return model


def predict(model, image, shape):
    """Predict an image that is padded as the data preprocessor pads it."""
    sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
    data = dict(inputs=[image], data_samples=[sample])
    with torch.no_grad():
        return model.test_step(data)[0]


def test_the_modules_are_those_of_the_published_config(root, tmp_path):
    """Left out arguments are mmdet's defaults; they have to be what mmseg's config writes out."""
    ours = Config.fromfile(root / f'{BASE}_vit-b-p16.py').model.decode_head
    leaf = tmp_path / 'theirs.py'
    leaf.write_text(f"_base_ = 'mmseg::{PUBLISHED}'")
    theirs = Config.fromfile(leaf).model.decode_head
    theirs.in_channels = ours.in_channels
    init_default_scope('mmseg')
    built = [MODELS.build(head) for head in (ours, theirs)]
    for part in ('pixel_decoder', 'transformer_decoder', 'cls_embed', 'mask_embed'):
        texts = [str(getattr(head, part)) for head in built]
        no_dropout = [text.replace('Dropout(p=0.0, inplace=False)', 'Identity()') for text in texts]
        assert no_dropout[0] == no_dropout[1]
    values = [{name: value.shape for name, value in head.state_dict().items()} for head in built]
    assert values[0] == values[1]
    for part in ('loss_cls', 'loss_mask', 'loss_dice'):
        settings = [
            {key: value for key, value in vars(getattr(head, part)).items() if key[0] != '_'}
            for head in built
        ]
        assert settings[0] == settings[1]
    for key in ('num_points', 'oversample_ratio', 'importance_sample_ratio'):
        assert ours.train_cfg[key] == theirs.train_cfg[key]
    costs = [[vars(cost) for cost in head.assigner.match_costs] for head in built]
    assert costs[0] == costs[1]


def test_runs_on_maps_alone(nano):
    with torch.no_grad():
        classes, masks = nano(torch.randn(2, 3, 64, 96), mode='tensor')
    assert len(classes) == len(masks) == 1 + 3
    assert classes[-1].shape == (2, 20, 151)
    assert masks[-1].shape == (2, 20, 16, 24)


@pytest.mark.parametrize('shape', [(64, 64), (70, 101)])
def test_a_single_window_is_the_whole_image(nano, shape):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    whole = predict(nano, image, shape)
    sliding = copy.copy(nano)
    sliding.test_cfg = Config(dict(mode='slide', crop_size=(128, 128), stride=(64, 64)))
    slid = predict(sliding, image, shape)
    assert whole.seg_logits.data.shape == (150, *shape)
    torch.testing.assert_close(slid.seg_logits.data, whole.seg_logits.data)


def test_sliding_windows_are_averaged(nano):
    """Two windows of 64 px with an overlap of 32 px, each predicted by itself."""
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    left = predict(nano, image[:, :, :64], (64, 64)).seg_logits.data
    right = predict(nano, image[:, :, 32:], (64, 64)).seg_logits.data
    sliding = copy.copy(nano)
    sliding.test_cfg = Config(dict(mode='slide', crop_size=(64, 64), stride=(32, 32)))
    slid = predict(sliding, image, (64, 96)).seg_logits.data
    middle = (left[:, :, 32:] + right[:, :, :32]) / 2
    expected = torch.cat((left[:, :, :32], middle, right[:, :, 32:]), dim=2)
    torch.testing.assert_close(slid, expected, atol=1e-5, rtol=1e-4)


def test_losses_and_gradients_are_those_of_masks_in_int64(nano, monkeypatch):
    label_map = torch.arange(64)[:, None] // 16 + torch.arange(64) // 16
    label_map[0] = 255
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=data[None]),
            metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64)),
        )
        for data in (label_map, torch.full((64, 64), 255))
    ]
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)

    def losses_and_gradient() -> list[torch.Tensor]:
        torch.manual_seed(1)
        losses = nano.loss(images, samples)
        total, _ = nano.parse_losses(losses)
        return [*losses.values(), *torch.autograd.grad(total, [nano.decode_head.cls_embed.weight])]

    ours = losses_and_gradient()
    parent = Mask2FormerHead._seg_data_to_instance_data
    monkeypatch.setattr(type(nano.decode_head), '_seg_data_to_instance_data', parent)
    for mine, theirs in zip(ours, losses_and_gradient(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
