"""What goes into a file of a detector, before anything is written."""

import pytest
import torch
from torch import nn

from castling_det.errors import InputError
from castling_det.export.build import graphs
from castling_det.export.detector_graph import DetectorGraph
from castling_det.models.attention import CastlingAttention


@torch.no_grad()
def test_shipped_graph_is_castled_and_folded_and_computes_the_same(detector, pixels):
    trained, shipped = graphs(detector.model, decodes=True, half=False)
    assert any(module.aux for module in trained.modules() if isinstance(module, CastlingAttention))
    attentions = [m for m in shipped.modules() if isinstance(m, CastlingAttention)]
    assert attentions and not any(module.aux for module in attentions)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in shipped.modules())
    image = torch.from_numpy(pixels(2, 90, 131)).permute(0, 3, 1, 2).float()
    (boxes, scores), (boxes_to_be, scores_to_be) = shipped(image), trained(image)
    torch.testing.assert_close(boxes, boxes_to_be, atol=1e-3, rtol=0)
    torch.testing.assert_close(scores, scores_to_be, atol=1e-4, rtol=0)
    sides = boxes.amax(dim=(0, 1)).tolist()
    assert boxes.min() == 0 and sides[2:] == [131, 90]  # clipped, and some boxes needed it


@torch.no_grad()
def test_boxes_are_those_of_the_raw_maps(detector, pixels):
    raw, _ = graphs(detector.model, decodes=False, half=False)
    assert [*raw.outputs][::4] == ['scores_8', 'boxes_8']
    image = torch.from_numpy(pixels(1, 64, 128)).permute(0, 3, 1, 2).float()
    maps = raw(image)
    assert [tuple(level.shape[-2:]) for level in maps[:4]] == [(8, 16), (4, 8), (2, 4), (1, 2)]
    decoding, _ = graphs(detector.model, decodes=True, half=False)
    for got, expected in zip(raw.decode(list(maps), 64, 128), decoding(image), strict=True):
        assert torch.equal(got, expected)


def test_half_keeps_normalisation_in_float32(detector):
    _, shipped = graphs(detector.model, decodes=True, half=True)
    assert shipped.mean.dtype == shipped.std.dtype == torch.float32
    assert {each.dtype for each in shipped.model.parameters()} == {torch.float16}
    assert {each.dtype for each in detector.model.parameters()} == {torch.float32}


def test_other_models_are_refused(detector):
    model = nn.Module()
    model.data_preprocessor = detector.model.data_preprocessor
    with pytest.raises(
        ValueError, match='Module with no bbox_head is not exported, .* DETRs are not'
    ):
        DetectorGraph(model, True)


def test_a_model_of_multiples_alone_is_refused_with_the_remedy(detector, monkeypatch):
    """As mmdet's RTMDet is without padding."""
    backbone = detector.model.backbone

    def forward(x):
        if x.shape[-1] % 32:
            raise RuntimeError('Sizes of tensors must match')
        return type(backbone).forward(backbone, x)

    monkeypatch.setattr(backbone, 'forward', forward)
    monkeypatch.setattr(detector.model.data_preprocessor, 'pad_size_divisor', 1)
    with pytest.raises(InputError, match='135x203 px.*pad_size_divisor=32.*must match'):
        graphs(detector.model, decodes=True, half=False)
    monkeypatch.setattr(detector.model.data_preprocessor, 'pad_size_divisor', 32)
    graphs(detector.model, decodes=True, half=False)


@torch.no_grad()
def test_channels_and_statistics_are_those_of_the_network(detector, monkeypatch, pixels):
    """BGR pixels with their own means, and pixels that are not normalised."""
    image = torch.from_numpy(pixels(1, 64, 128)).permute(0, 3, 1, 2).float()
    rgb = DetectorGraph(detector.model, True).prepare(image)
    preprocessor = detector.model.data_preprocessor
    monkeypatch.setattr(preprocessor, '_channel_conversion', False)
    for name in ('mean', 'std'):
        monkeypatch.setitem(preprocessor._buffers, name, getattr(preprocessor, name).flip(0))
    assert torch.equal(DetectorGraph(detector.model, True).prepare(image), rgb.flip(1))
    monkeypatch.setattr(preprocessor, '_enable_normalize', False)
    assert torch.equal(DetectorGraph(detector.model, True).prepare(image), image.flip(1))
