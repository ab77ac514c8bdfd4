"""mmdet's one-stage heads on a backbone of ours, as ONNX, against their own predictions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmdet.models import DINO, CondInst, DeformableDETR, FasterRCNN, SingleStageDetector
from mmdet.models.dense_heads import (
    CondInstBboxHead,
    DeformableDETRHead,
    DINOHead,
    PAAHead,
    YOLOV3Head,
)
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import nn

onnx = pytest.importorskip('onnx', reason="the extra 'export' is not installed")

from castling_det.configs import build_model  # noqa: E402
from castling_det.export import recording  # noqa: E402
from castling_det.export.box_decoding import decoder_of  # noqa: E402
from castling_det.export.build import graphs  # noqa: E402
from castling_det.export.detector_graph import DetectorGraph  # noqa: E402
from castling_det.export.onnx_file import to_onnx  # noqa: E402
from castling_det.export.onnx_model import OPSET, session  # noqa: E402
from castling_det.export.onnx_tail import append_tail  # noqa: E402
from castling_det.inference.run_onnx import Detections, OnnxDetector  # noqa: E402

STRIDES = [8, 16]
SQUARES = dict(
    type='AnchorGenerator', ratios=[1.0], octave_base_scale=3, scales_per_octave=1, strides=STRIDES
)
DELTAS = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])
NORM = dict(type='BN')

HEADS = dict(
    retina=dict(
        type='RetinaHead',
        anchor_generator=dict(SQUARES, ratios=[0.5, 2.0], scales_per_octave=2),
        bbox_coder=DELTAS,
    ),
    fcos=dict(
        type='FCOSHead', strides=STRIDES, regress_ranges=[(-1, 64), (64, 1e8)], norm_cfg=NORM
    ),
    atss=dict(type='ATSSHead', anchor_generator=SQUARES, bbox_coder=DELTAS, norm_cfg=NORM),
    gfl=dict(type='GFLHead', anchor_generator=SQUARES, reg_max=8, norm_cfg=NORM),
    tood=dict(type='TOODHead', anchor_generator=SQUARES, stacked_convs=2, norm_cfg=NORM),
    rtmdet=dict(
        type='RTMDetSepBNHead',
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=STRIDES),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        exp_on_reg=True,
    ),
    yolox=dict(type='YOLOXHead', strides=STRIDES),
)


def model_of(name: str) -> dict:
    """Config of a detector of BGR pixels."""
    head = dict(num_classes=5, in_channels=16, feat_channels=16, stacked_convs=1) | HEADS[name]
    return dict(
        type='SingleStageDetector',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[103, 116, 124], std=[57, 58, 59], pad_size_divisor=16
        ),
        backbone=dict(
            type='CastlingLeViT',
            arch=dict(embed_dims=(32,), num_heads=(2,), depths=(1,), key_dims=16),
            out_indices=(0, 1),
            attn=dict(type='CastlingAttention'),
        ),
        neck=dict(type='ChannelMapper', in_channels=[16, 32], out_channels=16, kernel_size=1),
        bbox_head=head,
        test_cfg=dict(
            nms_pre=10_000,
            min_bbox_size=0,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=100,
        ),
    )


def detector_of(name: str) -> nn.Module:
    """No weight and no statistic of a norm is 0 or 1."""
    torch.manual_seed(len(name))
    cfg = dict(model=model_of(name), default_scope='mmdet')
    built = build_model(Config(cfg)).eval()
    for key, value in built.state_dict().items():
        if key.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5)
        elif value.is_floating_point() and not key.endswith('project'):
            value.normal_(mean=float(key.endswith(('weight', 'scale'))), std=0.3)
    return built


def torch_of(graph: DetectorGraph) -> Callable:
    """Pixels to the cells of what is shipped."""
    return lambda image: [x.numpy() for x in graph(image)]


def onnxruntime_of(graph: DetectorGraph) -> Callable:
    """Pixels to the cells of a file, before its end.

    Recorded anew for each size, which takes seconds where open sizes take a minute.
    """

    def run(image: torch.Tensor) -> list[np.ndarray]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                recording,
                'trace',
                lambda graph, _: torch.export.export(graph, (image,), strict=False),
            )
            opened = session(to_onnx(graph))
        return opened.run(None, dict(image=image.numpy()))

    return run


@torch.no_grad()
@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize(
    ('computed', 'shapes'),
    [(torch_of, [(1, 97, 143), (2, 64, 200)]), (onnxruntime_of, [(2, 97, 143)])],
    ids=['torch', 'onnxruntime'],
)
def test_boxes_are_those_that_mmdet_predicts(name, computed, shapes, pixels):
    """Scores and labels too, by the runtime's NMS and the graph's; padded, and in batches."""
    model = detector_of(name)
    _, graph = graphs(model, decodes=True, half=False)
    run = computed(graph)
    for shape in shapes:
        images = pixels(*shape)
        cells = run(torch.from_numpy(images).permute(0, 3, 1, 2).float())
        score_thr = np.sort(cells[1], axis=None)[-60:-58].mean()  # it is between two of them
        graph.model.test_cfg.score_thr = model.bbox_head.test_cfg.score_thr = score_thr
        by_runtime, by_graph = (finish(graph, cells, decode) for decode in ('boxes', 'nms'))
        for *both, expected in zip(by_runtime, by_graph, predict(model, images), strict=True):
            assert 3 <= len(expected.scores) <= 60
            for found in both:
                assert np.array_equal(found.labels, expected.labels)
                assert np.allclose(found.scores, expected.scores, atol=1e-5)
                assert np.allclose(found.boxes, expected.boxes, atol=2e-3)


def finish(graph: DetectorGraph, cells: list[np.ndarray], decode: str) -> list[Detections]:
    """What a file's end and its runtime make of the cells of a batch."""
    score_thr = 0 if graph.has_factors else graph.model.test_cfg.score_thr
    metadata = dict(
        classes=[*'abcde'], palette=[], decode=decode, score_thr=score_thr, iou_threshold=0.5
    )
    inputs = ', '.join(f'float[b, n, {x.shape[-1]}] in{i}' for i, x in enumerate(cells))
    names = [f'all_{output}' for output in graph.outputs]
    outputs = ', '.join(
        f'float[b, n, {x.shape[-1]}] {name}' for name, x in zip(names, cells, strict=True)
    )
    body = ' '.join(f'{name} = Identity (in{i})' for i, name in enumerate(names))
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {OPSET}]> cells ({inputs}) => ({outputs}) {{{body}}}'
    )
    model = append_tail(model, graph, metadata | dict(max_per_img=100))
    onnx.checker.check_model(model, full_check=True)
    found = session(model).run(None, {f'in{i}': x for i, x in enumerate(cells)})
    if decode == 'nms':
        images = [Detections(*each) for each in zip(*found, strict=True)]
        return [Detections(*(x[each.scores > 0] for x in each)) for each in images]
    runtime = OnnxDetector(None, metadata | dict(max_per_img=None))
    return [runtime._suppress(*each) for each in zip(*found, strict=True)]


def predict(model: nn.Module, images: np.ndarray) -> list[Detections]:
    """mmdet's way, from BGR."""
    bgr = torch.from_numpy(images[..., ::-1].transpose(0, 3, 1, 2).copy())
    meta = dict(ori_shape=bgr.shape[2:], img_shape=bgr.shape[2:], scale_factor=(1, 1))
    samples = [DetDataSample(metainfo=meta) for _ in bgr]
    with torch.no_grad():
        found = model.test_step(dict(inputs=list(bgr), data_samples=samples))
    found = [sample.pred_instances.numpy() for sample in found]
    return [Detections(each.bboxes, each.scores, each.labels) for each in found]


@pytest.mark.parametrize(
    ('detector_type', 'head_type', 'told'),
    [
        (FasterRCNN, None, 'FasterRCNN with no bbox_head'),
        (DINO, DINOHead, 'DINO with DINOHead'),
        (DeformableDETR, DeformableDETRHead, 'DeformableDETR with DeformableDETRHead'),
        (SingleStageDetector, YOLOV3Head, 'SingleStageDetector with YOLOV3Head'),
        (SingleStageDetector, PAAHead, 'SingleStageDetector with PAAHead'),
        (CondInst, CondInstBboxHead, 'CondInst with CondInstBboxHead'),
    ],
)
def test_other_heads_are_refused_by_name(detector_type, head_type, told):
    detector = detector_type.__new__(detector_type)  # it is not asked for more than its types
    nn.Module.__init__(detector)
    if head_type:
        detector.__dict__['bbox_head'] = head_type.__new__(head_type)
    with pytest.raises(ValueError, match=f'{told} is not exported, .* RTMDet or YOLOX do'):
        decoder_of(detector)
