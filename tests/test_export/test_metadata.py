"""What a file says of itself, and what it cannot say."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
from mmcv.transforms import Compose

import castling_det
from castling_det.export.metadata import decode_of, describe
from castling_det.inference.run_onnx import OnnxDetector


def test_metadata_say_what_the_runtime_needs(detector):
    metadata = describe(detector, 'nms', 'fp32', None)
    assert metadata['classes'] == [*'abcdef'] and len(metadata['palette']) == 6
    assert metadata['decode'] == 'nms' and metadata['precision'] == 'fp32'
    assert (metadata['input_size'], metadata['interpolation']) == ([64, 512], 'bicubic')
    assert metadata['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert metadata['std'] == pytest.approx([58.395, 57.12, 57.375])
    assert metadata['version'] == castling_det.__version__ and metadata['commit']
    assert (metadata['score_thr'], metadata['iou_threshold']) == (0.575, 0.6)
    other = describe(detector, 'raw', 'fp16', (32, 96))
    assert other['input_size'] == [32, 96] and other['precision'] == 'fp16'


def test_metadata_of_a_segmentor_say_nothing_of_boxes(segmentor, detector):
    metadata = describe(segmentor, 'labels', 'fp32', None)
    assert (metadata['task'], metadata['decode']) == ('segmentation', 'labels')
    assert metadata['classes'][:2] == ['ground', 'disk']
    assert metadata['palette'][0] == [120, 100, 80]
    assert (metadata['input_size'], metadata['interpolation']) == ([64, 512], 'bilinear')
    assert metadata['pad_size_divisor'] == 64
    of_boxes = {'score_thr', 'iou_threshold', 'max_per_img'}
    of_windows = {'window', 'stride', 'pad_colour'}
    others = describe(detector, 'boxes', 'fp32', None).keys()
    assert others - metadata.keys() == of_boxes and metadata.keys() - others == of_windows
    with pytest.raises(ValueError, match='decode of segmentation is one of labels, raw'):
        decode_of(segmentor, 'nms')


def test_interpolation_is_that_of_the_test(detector, monkeypatch):
    cfg = deepcopy(detector.model.cfg)
    del cfg.test_dataloader.dataset.pipeline[1]['interpolation']
    monkeypatch.setattr(detector.model, 'cfg', cfg)
    assert (
        describe(detector, 'boxes', 'fp32', None)['interpolation'] == 'bilinear'
    )  # mmcv's default


@pytest.mark.parametrize(('name', 'decode'), [('detector', 'boxes'), ('segmentor', 'labels')])
def test_sides_of_images_that_keep_their_proportions(name, decode, request, monkeypatch):
    trained = request.getfixturevalue(name)
    assert decode_of(trained, None) == decode
    assert describe(trained, decode, 'fp32', None)['most_sides'] is None
    cfg = deepcopy(trained.model.cfg)
    cfg.test_dataloader.dataset.pipeline[1].update(scale=(640, 200), keep_ratio=True)
    monkeypatch.setattr(trained.model, 'cfg', cfg)
    metadata = describe(trained, decode, 'fp32', None)
    assert metadata['most_sides'] == metadata['input_size'] == [200, 640]
    fixed = describe(trained, decode, 'fp32', (64, 96))
    assert (fixed['most_sides'], fixed['input_size']) == (None, [64, 96])


@pytest.mark.parametrize(
    ('scale', 'pad'),
    [
        ((200, 200), dict(pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))),
        ((100, 200), dict(size=(224, 256), pad_val=114)),
    ],
    ids=['square', 'size'],
)
def test_images_are_padded_as_in_the_test(scale, pad, detector, monkeypatch, pixels):
    cfg = deepcopy(detector.model.cfg)
    steps = [dict(type='Resize', scale=scale, keep_ratio=True), dict(type='Pad', **pad)]
    cfg.test_dataloader.dataset.pipeline[1:2] = steps
    monkeypatch.setattr(detector.model, 'cfg', cfg)
    metadata = describe(detector, 'boxes', 'fp32', None)
    assert metadata['most_sides'] == sorted(scale) and metadata['pad_value'] == 114
    assert metadata['input_size'] == metadata['pad_size'] == [*pad.get('size', scale)[::-1]]
    assert describe(detector, 'boxes', 'fp32', (64, 96))['pad_size'] is None
    (image,) = pixels(1, 90, 131)
    seen = []
    session = SimpleNamespace(run=lambda _, inputs: seen.append(inputs['image']) or [])
    OnnxDetector(session, metadata)._run(image)
    pipeline = Compose(
        [dict(type=f'mmdet.{step["type"]}', **_without_type(step)) for step in steps]
    )
    bgr = pipeline(dict(img=image[..., ::-1].copy()))['img']
    assert np.array_equal(seen[0][0].transpose(1, 2, 0), bgr[..., ::-1])
    cfg.test_dataloader.dataset.pipeline[2]['pad_val'] = dict(img=(1, 2, 3))
    with pytest.raises(ValueError, match='pads to a size, or to a square, by one number'):
        describe(detector, 'boxes', 'fp32', None)


@pytest.mark.parametrize(
    ('resize', 'pad'),
    [
        (dict(scale=(200, 100), keep_ratio=False), dict(size=(200, 200))),
        (dict(scale=(200, 100), keep_ratio=True), dict(pad_to_square=True)),
    ],
    ids=['stretched', 'square of any side'],
)
def test_other_padding_is_refused(resize, pad, detector, monkeypatch):
    """Files would stretch the image to the whole size, or pad it to another."""
    cfg = deepcopy(detector.model.cfg)
    steps = [dict(type='Resize', **resize), dict(type='Pad', pad_val=114, **pad)]
    cfg.test_dataloader.dataset.pipeline[1:2] = steps
    monkeypatch.setattr(detector.model, 'cfg', cfg)
    with pytest.raises(ValueError, match='to a size or to the square of a scale of two equal'):
        describe(detector, 'boxes', 'fp32', None)
    steps[0].update(scale=(200, 200))
    cfg.test_dataloader.dataset.pipeline[1:3] = steps
    assert describe(detector, 'boxes', 'fp32', None)['pad_size'] == [200, 200]


def _without_type(step):
    return {key: value for key, value in step.items() if key != 'type'}


def test_metadata_of_a_classifier_say_what_is_cut_out_of_an_image(classifier, monkeypatch):
    metadata = describe(classifier, 'scores', 'fp32', None)
    assert (metadata['task'], metadata['decode']) == ('classification', 'scores')
    assert metadata['classes'] == ['daisy', 'dandelion', 'roses', 'sunflowers', 'tulips']
    assert (metadata['short_side'], metadata['input_size']) == (64, [48, 48])
    assert (metadata['interpolation'], metadata['backend']) == ('bicubic', 'cv2')
    other = describe(classifier, 'raw', 'fp32', (96, 144))
    assert (other['short_side'], other['input_size']) == (192, [96, 144])
    cfg = deepcopy(classifier.model.cfg)
    monkeypatch.setattr(classifier.model, 'cfg', cfg)
    cfg.test_dataloader.dataset.pipeline[1].update(backend='pillow')
    assert describe(classifier, 'scores', 'fp32', None)['backend'] == 'pillow'
    cfg.test_dataloader.dataset.pipeline[2].crop_size = 65
    with pytest.raises(ValueError, match='CenterCrop is larger than what ResizeEdge gives'):
        describe(classifier, 'scores', 'fp32', None)
    cfg.test_dataloader.dataset.pipeline[1].update(edge='long')
    with pytest.raises(ValueError, match='one ResizeEdge of the short side and a CenterCrop'):
        describe(classifier, 'scores', 'fp32', None)


def test_logits_with_aligned_corners_are_refused(segmentor, monkeypatch):
    monkeypatch.setattr(segmentor.model.decode_head, 'align_corners', True)
    with pytest.raises(ValueError, match='align_corners=False'):
        describe(segmentor, 'labels', 'fp32', None)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Resize', scale_factor=0.5, keep_ratio=True),
        dict(type='mmdet.Resize', scale=(512, 64), interpolation='lanczos'),
        dict(type='mmdet.Resize', scale=(512, 64), backend='tifffile'),
        dict(type='Pad', size_divisor=32),
    ],
    ids=lambda step: step['type'],
)
def test_pipelines_of_another_kind_are_refused(step, detector, monkeypatch):
    cfg = deepcopy(detector.model.cfg)
    cfg.test_dataloader.dataset.pipeline[1] = step
    monkeypatch.setattr(detector.model, 'cfg', cfg)
    with pytest.raises(ValueError, match='one Resize to a scale, with a Pad or without'):
        describe(detector, 'boxes', 'fp32', (64, 512))


def test_unknown_decoding_and_nms_are_refused(detector, monkeypatch):
    with pytest.raises(ValueError, match='decode of detection is one of boxes, nms, raw'):
        decode_of(detector, 'soft')
    monkeypatch.setitem(detector.model.test_cfg, 'nms', dict(type='soft_nms', iou_threshold=0.5))
    with pytest.raises(ValueError, match='class-wise greedy NMS'):
        describe(detector, 'boxes', 'fp32', None)
    monkeypatch.setitem(detector.model.test_cfg, 'nms', dict(type='nms', iou_threshold=0.5))
    monkeypatch.setitem(detector.model.test_cfg, 'min_bbox_size', 4)
    with pytest.raises(ValueError, match='min_bbox_size but 0'):
        describe(detector, 'boxes', 'fp32', None)
    monkeypatch.delitem(detector.model.test_cfg, 'min_bbox_size')
    monkeypatch.delitem(detector.model.test_cfg, 'max_per_img')
    assert describe(detector, 'boxes', 'fp32', None)['max_per_img'] is None  # as YOLOX has it
    with pytest.raises(ValueError, match='model.test_cfg.max_per_img=300'):
        describe(detector, 'nms', 'fp32', None)
    monkeypatch.delitem(detector.model.test_cfg, 'nms')
    with pytest.raises(ValueError, match='class-wise greedy NMS, but the config has None'):
        describe(detector, 'boxes', 'fp32', None)
