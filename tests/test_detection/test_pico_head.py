"""PicoHead: decoding, losses against slow formulas, assignment phases, learning."""

import math

import pytest
import torch
from mmdet.models.losses import VarifocalLoss
from mmdet.models.task_modules.assigners import ATSSAssigner, TaskAlignedAssigner
from mmdet.structures import DetDataSample
from mmengine import MessageHub
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import castling_det.detection  # noqa: F401

STRIDES = (8, 16, 32, 64)
NUM_CLASSES = 3
REG_MAX = 7
ATSS, TASK_ALIGNED = 0, 1  # epochs of the two phases, with initial_epoch=1


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """mmdet's scope, and a message hub of this test's own, without an epoch."""
    init_default_scope('mmdet')
    hub = MessageHub('pico_head')
    monkeypatch.setattr(MessageHub, 'get_current_instance', lambda: hub)
    return hub


def build_head(in_channels=8, stacked_convs=1):
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type='PicoHead',
            num_classes=NUM_CLASSES,
            in_channels=in_channels,
            stacked_convs=stacked_convs,
            reg_max=REG_MAX,
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=5,
                scales_per_octave=1,
                strides=STRIDES,
                center_offset=0.5,
            ),
            loss_cls=dict(type='VarifocalLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.5),
            loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.5),
            train_cfg=ConfigDict(
                initial_epoch=1,
                initial_assigner=dict(type='ATSSAssigner', topk=9),
                assigner=dict(type='TaskAlignedAssigner', topk=13),
                alpha=1,
                beta=6,
                allowed_border=-1,
                pos_weight=-1,
            ),
            test_cfg=ConfigDict(
                nms_pre=1000,
                score_thr=0.025,
                nms=dict(type='nms', iou_threshold=0.6),
                max_per_img=100,
            ),
        )
    )
    head.init_weights()
    return head


def grids(size):
    return [-(-size // stride) for stride in STRIDES]


def metas(size, batch):
    return [dict(img_shape=(size, size), pad_shape=(size, size)) for _ in range(batch)]


def instances(boxes, labels):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )


def features(size, batch=2, channels=8):
    torch.manual_seed(1)
    return [torch.randn(batch, channels, grid, grid) for grid in grids(size)]


def random_outputs(size, batch, dtype=torch.float32):
    """Scores and box logits with which the losses are far from trivial."""
    torch.manual_seed(2)
    scores = [torch.rand(batch, NUM_CLASSES, g, g) * 0.9 + 0.05 for g in grids(size)]
    logits = [2 * torch.randn(batch, 4 * (REG_MAX + 1), g, g) for g in grids(size)]
    return scores, logits


def cells(size):
    """Row, column, stride and level of every cell, in the order of the flattened maps."""
    return [
        (row, col, stride, level)
        for level, (stride, grid) in enumerate(zip(STRIDES, grids(size), strict=True))
        for row in range(grid)
        for col in range(grid)
    ]


def softmax(values):
    exps = [math.exp(v) for v in values]
    return [e / sum(exps) for e in exps]


def decode_slowly(logits, image, row, col, stride, level):
    distances = []
    for side in range(4):
        bins = logits[level][image, side * (REG_MAX + 1) : (side + 1) * (REG_MAX + 1), row, col]
        distances.append(stride * sum(i * p for i, p in enumerate(softmax(bins.tolist()))))
    x, y = (col + 0.5) * stride, (row + 0.5) * stride
    return [x - distances[0], y - distances[1], x + distances[2], y + distances[3]]


def iou_and_giou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union, overlap / union - (hull - union) / hull


def varifocal(p, target):
    weight = target if target > 0 else 0.75 * p**2
    return -weight * (target * math.log(p) + (1 - target) * math.log(1 - p))


def losses_slowly(scores, logits, gts, size, phase):
    """The three losses in float64 loops; only which cell gets which box is the assigner's."""
    where = cells(size)
    priors = torch.tensor(
        [
            [(col - 2) * s, (row - 2) * s, (col + 3) * s, (row + 3) * s]  # 5 cells wide
            for row, col, s, _ in where
        ],
        dtype=torch.float32,
    )
    cls = giou = dfl = total = 0.0
    num_positives = 0
    for image, gt in enumerate(gts):
        boxes = [decode_slowly(logits, image, *cell) for cell in where]
        flat_scores = [scores[lv][image, :, r, c].tolist() for r, c, _, lv in where]
        if phase == ATSS:
            result = ATSSAssigner(topk=9).assign(
                InstanceData(priors=priors), [g * g for g in grids(size)], gt
            )
        else:
            result = TaskAlignedAssigner(topk=13).assign(
                InstanceData(
                    priors=priors, bboxes=torch.tensor(boxes), scores=torch.tensor(flat_scores)
                ),
                gt,
                alpha=1,
                beta=6,
            )
        owner = (result.gt_inds - 1).tolist()
        num_positives += sum(o >= 0 for o in owner)
        gt_boxes, gt_labels = gt.bboxes.tolist(), gt.labels.tolist()
        ious = [
            iou_and_giou(boxes[i], gt_boxes[o])[0] if o >= 0 else 0 for i, o in enumerate(owner)
        ]
        quality = ious
        if phase == TASK_ALIGNED:
            metric = [
                flat_scores[i][gt_labels[o]] * ious[i] ** 6 if o >= 0 else 0
                for i, o in enumerate(owner)
            ]
            mates = [[j for j, other in enumerate(owner) if other == o] for o in owner]
            quality = [
                metric[i] / max(metric[j] for j in mates[i]) * max(ious[j] for j in mates[i])
                if o >= 0
                else 0
                for i, o in enumerate(owner)
            ]
        for i, o in enumerate(owner):
            for label in range(NUM_CLASSES):
                is_target = o >= 0 and gt_labels[o] == label
                cls += varifocal(flat_scores[i][label], quality[i] if is_target else 0.0)
            if o < 0:
                continue
            total += quality[i]
            giou += quality[i] * (1 - iou_and_giou(boxes[i], gt_boxes[o])[1])
            row, col, stride, level = where[i]
            x, y = (col + 0.5) * stride, (row + 0.5) * stride
            left, top, right, bottom = gt_boxes[o]
            for side, distance in enumerate([x - left, y - top, right - x, bottom - y]):
                distance = min(max(distance / stride, 0), REG_MAX - 0.1)
                bins = logits[level][
                    image, side * (REG_MAX + 1) : (side + 1) * (REG_MAX + 1), row, col
                ]
                probs = softmax(bins.tolist())
                low = int(distance)
                cross_entropy = -(low + 1 - distance) * math.log(probs[low])
                cross_entropy -= (distance - low) * math.log(probs[low + 1])
                dfl += quality[i] * cross_entropy / 4
    norm = max(total, 1)
    assert num_positives > 5
    return dict(loss_cls=cls / norm, loss_bbox=2.5 * giou / norm, loss_dfl=0.5 * dfl / norm)


def test_decode_matches_explicit_loop():
    head = build_head()
    _, logits = random_outputs(72, 2)
    where = cells(72)
    centers = torch.tensor([[(col + 0.5) * s, (row + 0.5) * s] for row, col, s, _ in where])
    strides = torch.tensor([[float(s)] for _, _, s, _ in where])
    flat = torch.cat([x.flatten(2).transpose(1, 2) for x in logits], dim=1)
    boxes = head.decode(flat, centers, strides)
    expected = [[decode_slowly(logits, image, *cell) for cell in where] for image in range(2)]
    torch.testing.assert_close(boxes, torch.tensor(expected), rtol=1e-5, atol=1e-3)


def test_forward_shapes_and_score_range():
    head = build_head()
    for bias in (-200.0, 0.0, 200.0):
        for level in head.levels:
            torch.nn.init.constant_(level.cls.bias, bias)
        scores, logits = head(features(72))
        assert [tuple(x.shape) for x in scores] == [(2, NUM_CLASSES, g, g) for g in grids(72)]
        assert [tuple(x.shape) for x in logits] == [(2, 32, g, g) for g in grids(72)]
        assert all((x > 0).all() and (x < 1).all() for x in scores)


def test_scores_start_at_the_geometric_mean_of_prior_and_alignment():
    head = build_head()
    level = head.levels[0]
    x = features(72)[0]
    align = level.align(level.tower(x)).sigmoid()
    scores, _ = level(x)
    torch.testing.assert_close(scores, (0.01 * align).sqrt().expand_as(scores), rtol=0.1, atol=0)
    assert level.reg.bias.abs().max() == 0
    assert level.tower[0].pointwise_conv.conv.weight.std().item() == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize('phase', [ATSS, TASK_ALIGNED])
def test_losses_match_slow_formulas(hub, phase):
    hub.update_info('epoch', phase)
    size = 72
    scores, logits = random_outputs(size, 2)
    gts = [
        instances([[3, 5, 40, 44], [30, 20, 70, 69]], [2, 0]),
        instances([[10, 2, 69, 71]], [1]),
    ]
    losses = build_head().loss_by_feat(scores, logits, gts, metas(size, 2))
    expected = losses_slowly(scores, logits, gts, size, phase)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_classification_loss_is_varifocal_loss_of_the_logits():
    size = 72
    torch.manual_seed(0)
    raw = [2 * torch.randn(1, NUM_CLASSES, g, g, requires_grad=True) for g in grids(size)]
    _, boxes = random_outputs(size, 1)
    losses = build_head().loss_by_feat(
        [x.sigmoid() for x in raw], boxes, [instances([], [])], metas(size, 1)
    )
    flat = torch.cat([x.flatten() for x in raw])[:, None]
    expected = VarifocalLoss(reduction='sum')(flat, torch.zeros_like(flat))
    torch.testing.assert_close(losses['loss_cls'], expected, rtol=1e-5, atol=0)
    got = torch.autograd.grad(losses['loss_cls'], raw)
    for a, b in zip(got, torch.autograd.grad(expected, raw), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('phase', [ATSS, TASK_ALIGNED])
@pytest.mark.parametrize('probability', [0.0, 1e-30, 1 - 2**-24, 1.0])
def test_saturated_scores_keep_loss_and_gradient_finite(hub, phase, probability):
    hub.update_info('epoch', phase)
    scores, logits = random_outputs(72, 1)
    scores = [torch.full_like(x, probability).requires_grad_() for x in scores]
    losses = build_head().loss_by_feat(
        scores, logits, [instances([[3, 5, 60, 64]], [1])], metas(72, 1)
    )
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(torch.isfinite(x.grad).all() for x in scores)


@pytest.mark.parametrize('phase', [ATSS, TASK_ALIGNED])
def test_no_ground_truth(hub, phase):
    hub.update_info('epoch', phase)
    head = build_head()
    empty = [instances([], []) for _ in range(2)]
    losses = head.loss_by_feat(*head(features(72)), empty, metas(72, 2))
    assert losses['loss_cls'] > 0
    assert losses['loss_bbox'] == losses['loss_dfl'] == 0
    sum(losses.values()).backward()
    for name, param in head.named_parameters():
        assert torch.isfinite(param.grad).all(), name
        if '.reg.' in name:
            assert not param.grad.any(), name


@pytest.mark.parametrize('phase', [ATSS, TASK_ALIGNED])
def test_every_parameter_gets_a_gradient(hub, phase):
    hub.update_info('epoch', phase)
    head = build_head(stacked_convs=2)
    gts = [instances([[8, 8, 60, 70], [0, 0, 125, 120]], [0, 2]), instances([[70, 9, 99, 90]], [1])]
    losses = head.loss_by_feat(*head(features(128)), gts, metas(128, 2))
    sum(losses.values()).backward()
    without = {n for n, p in head.named_parameters() if not p.grad.any()}
    # A level to which no box is assigned learns scores only.
    box_layers = {f'levels.{i}.reg.{kind}' for i in range(4) for kind in ('weight', 'bias')}
    assert without < box_layers


def test_padding_is_not_background():
    head = build_head()
    scores, logits = random_outputs(72, 1)
    gts = [instances([[3, 5, 30, 31]], [1])]
    meta = [dict(img_shape=(72, 40), pad_shape=(72, 40))]
    before = head.loss_by_feat(scores, logits, gts, meta)
    scores[0][..., 5:] = 0.9
    after = head.loss_by_feat(scores, logits, gts, meta)
    assert before['loss_cls'] == after['loss_cls']


def test_assigner_follows_the_epoch(hub, monkeypatch):
    calls = []
    for cls in (ATSSAssigner, TaskAlignedAssigner):
        assign = cls.assign

        def spy(self, *args, assign=assign, name=cls.__name__):
            calls.append(name)
            return assign(self, *args)

        monkeypatch.setattr(cls, 'assign', spy)
    head = build_head()
    for epoch in (None, ATSS, TASK_ALIGNED, 7):
        if epoch is not None:
            hub.update_info('epoch', epoch)
        head.loss_by_feat(*random_outputs(72, 1), [instances([[3, 5, 60, 64]], [1])], metas(72, 1))
    assert calls == ['ATSSAssigner'] * 2 + ['TaskAlignedAssigner'] * 2


@pytest.mark.parametrize('phase', [ATSS, TASK_ALIGNED])
def test_bf16_autocast(hub, phase):
    hub.update_info('epoch', phase)
    head = build_head()
    gts = [instances([[3, 5, 60, 64]], [1]), instances([[30, 20, 70, 69]], [0])]
    exact = head.loss_by_feat(*head(features(72)), gts, metas(72, 2))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        scores, logits = head(features(72))
        losses = head.loss_by_feat(scores, logits, gts, metas(72, 2))
        centers = torch.rand(64, 2) * 1000
        boxes = head.decode(logits[0].flatten(2)[0].T[:64], centers, 8)
    assert logits[0].dtype == torch.bfloat16
    assert torch.equal(boxes, head.decode(logits[0].flatten(2)[0].T[:64], centers, 8))
    sum(losses.values()).backward()
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05), name
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def sample(gt, scale_factor=(1.0, 1.0)):
    return DetDataSample(
        gt_instances=gt,
        metainfo=dict(
            img_shape=(128, 128),
            pad_shape=(128, 128),
            ori_shape=(128, 128),
            scale_factor=scale_factor,
        ),
    )


def test_overfits_one_image_and_predicts_its_boxes(hub):
    head = build_head(in_channels=24)
    feats = features(128, batch=1, channels=24)
    gt = instances([[8, 12, 52, 40], [60, 50, 122, 118], [10, 70, 44, 120]], [0, 2, 1])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for step in range(80):
        hub.update_info('epoch', ATSS if step < 40 else TASK_ALIGNED)
        losses = head.loss(feats, [sample(gt)])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    head.eval()
    with torch.no_grad():
        found = head.predict(feats, [sample(gt)])[0]
        rescaled = head.predict(feats, [sample(gt, scale_factor=(2.0, 0.5))], rescale=True)[0]
    best = found[found.scores.argsort(descending=True)[:3]]
    assert (best.scores > 0.5).all()
    for box, label in zip(gt.bboxes.tolist(), gt.labels.tolist(), strict=True):
        ious = [iou_and_giou(candidate, box)[0] for candidate in best.bboxes.tolist()]
        assert max(ious) > 0.8
        assert best.labels[ious.index(max(ious))] == label
    torch.testing.assert_close(
        rescaled.bboxes, found.bboxes / found.bboxes.new_tensor([2.0, 0.5, 2.0, 0.5])
    )


def test_predictions_end_at_the_border_of_the_image():
    head = build_head().eval()
    with torch.no_grad():
        for level in head.levels:
            level.cls.bias.fill_(3.0)
            level.reg.weight.normal_(std=1.0)
            level.reg.bias.normal_(std=2.0)
        maps = [torch.randn(1, head.in_channels, -(-40 // s), -(-72 // s)) for s in (8, 16, 32, 64)]
        meta = [dict(img_shape=(37, 70), pad_shape=(40, 72), scale_factor=(1.0, 1.0))]
        (result,) = head.predict_by_feat(*head(maps), batch_img_metas=meta, rescale=False)
    boxes = result.bboxes
    assert len(boxes) > 10
    assert boxes.min() == 0
    assert boxes[:, 0::2].max() == 70 and boxes[:, 1::2].max() == 37
