"""What goes into a file of a segmentor, before anything is written."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample
from torch import nn

from castling_det.errors import InputError
from castling_det.export.build import graphs
from castling_det.export.metadata import decode_of, describe
from castling_det.export.segmentor_graph import SegmentorGraph
from castling_det.inference.run_onnx import OnnxSegmentor
from castling_det.inference.trained_model import TrainedModel
from castling_det.models.attention import CastlingAttention


@pytest.mark.parametrize('name', ['segmentor', 'mask2former'])
@torch.no_grad()
def test_shipped_graph_is_castled_and_folded_and_gives_mmsegs_logits(name, pixels, request):
    segmentor = request.getfixturevalue(name)
    trained, shipped = graphs(segmentor.model, decodes=False, half=False)
    attentions = [m for m in shipped.modules() if isinstance(m, CastlingAttention)]
    assert attentions and not any(module.aux for module in attentions)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in shipped.modules())
    image = torch.from_numpy(pixels(1, 90, 131)).permute(0, 3, 1, 2).float()
    (logits,) = shipped(image)
    sample = segmentor.model.data_preprocessor(
        dict(inputs=[image[0].flip(0)], data_samples=[_sample(90, 131)])
    )
    (expected,) = segmentor.model.predict(sample['inputs'], sample['data_samples'])
    assert logits.shape == (1, len(segmentor.classes), 90, 131)
    torch.testing.assert_close(logits[0], expected.seg_logits.data, atol=1e-4, rtol=0)
    torch.testing.assert_close(trained.logits(image), logits, atol=1e-4, rtol=0)
    shipped.decodes = True
    (labels,) = shipped(image)
    assert torch.equal(labels, logits.argmax(dim=1)) and list(shipped.outputs) == ['labels']


def _sample(height, width):
    size = (height, width)
    return SegDataSample(metainfo=dict(ori_shape=size, img_shape=size))


def test_sliding_windows_are_those_of_mmseg(segmentor, pixels):
    """They overlap, the last ones end with the padded image, and some have a colour of padding."""
    config = Path(segmentor.model.cfg.filename)
    cfg = Config.fromfile(config)
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 128), stride=(48, 96))
    cfg.test_dataloader.dataset.pipeline[1].scale = (300, 100)  # padded to 320 x 128 px
    sliding = TrainedModel(cfg, config.with_suffix('.pth'))
    decode = decode_of(sliding, None)
    _, shipped = graphs(sliding.model, decode != 'raw', half=False)

    def in_torch(image: np.ndarray) -> np.ndarray:
        return shipped(torch.from_numpy(image))[0].numpy()

    session = SimpleNamespace(run=lambda _, feed: [in_torch(**feed)])
    segment = OnnxSegmentor(session, describe(sliding, decode, 'fp32', None))
    (image,) = pixels(1, 90, 270)
    expected = sliding([image])[0]['label_map']
    assert len(np.unique(expected)) >= 3
    assert (segment(image) == expected).mean() > 0.999
    segment.metadata['window'] = None
    assert (segment(image) == expected).mean() < 0.999
    with pytest.raises(InputError, match="in sliding windows is one of raw, not 'labels'"):
        decode_of(sliding, 'labels')
    sliding.model.test_cfg.crop_size = (64, 130)
    with pytest.raises(InputError, match='multiples of 64 px'):
        describe(sliding, 'raw', 'fp32', None)


@pytest.mark.parametrize('name', ['segmentor', 'mask2former'])
@torch.no_grad()
def test_half_gives_logits_of_float32(name, pixels, request):
    segmentor = request.getfixturevalue(name)
    trained, shipped = graphs(segmentor.model, decodes=False, half=True)
    assert {each.dtype for each in shipped.model.parameters()} == {torch.float16}
    assert shipped.mean.dtype == torch.float32
    image = torch.from_numpy(pixels(1, 64, 128)).permute(0, 3, 1, 2).float()
    (logits,), (expected,) = shipped(image), trained(image)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.02 * expected.abs().max()


def test_other_segmentors_are_refused(segmentor, monkeypatch):
    model = segmentor.model
    with monkeypatch.context() as patch:
        patch.setattr(type(model.decode_head), 'predict', lambda: None)
        with pytest.raises(ValueError, match='only segmentors with Mask2Former, or whose head'):
            SegmentorGraph(model, True)
    with monkeypatch.context() as patch:
        patch.setattr(model.decode_head, 'out_channels', 1)
        with pytest.raises(ValueError, match='out_channels=1 is not exported'):
            SegmentorGraph(model, True)
    with monkeypatch.context() as patch:
        patch.setattr(model.data_preprocessor, 'test_cfg', dict(size=(64, 64)))
        with pytest.raises(ValueError, match='test_cfg has no size_divisor'):
            SegmentorGraph(model, True)
