"""When a file is as good as the model that it comes from."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from castling_det.export.agreement import blurred_noise, check
from castling_det.export.build import graphs

OUT = Path('a.onnx')


def noise() -> Iterator[torch.Tensor]:
    return blurred_noise((64, 128))


@pytest.fixture(scope='module')
def trained(detector):
    graph, _ = graphs(detector.model, decodes=True, half=False)
    return graph


def off_by(graph, px=0.0, score=0.0):
    """A file whose boxes and scores are moved from where they are exactly."""
    exact = deepcopy(graph).double()

    def run(image):
        assert image.min() >= 0 and 200 < image.max() <= 255
        boxes, scores = exact(image.double())
        return boxes + px, scores + score

    return run


def test_agreement_is_the_worst_of_several_sizes_and_batches(trained):
    same = check(off_by(trained), trained, 'fp32', noise(), OUT)
    assert same.boxes < 1e-4 and same.scores < 1e-6 and same.iou == pytest.approx(1)
    near = check(
        off_by(trained, px=9e-4, score=-9e-5), trained, 'fp32', blurred_noise((64, 128)), OUT
    )
    assert near.boxes == pytest.approx(9e-4, rel=0.1)
    assert near.scores == pytest.approx(9e-5, rel=0.01)
    assert 0.999 < near.iou < 1
    shapes = []

    def wrong_in_the_last(image):
        shapes.append(tuple(image.shape))
        return off_by(trained, score=1e-3 * (len(image) == 3))(image)

    with pytest.raises(ValueError, match='a.onnx is not written: for 3 images of 97x65 px'):
        check(wrong_in_the_last, trained, 'fp32', noise(), OUT)
    assert shapes == [(1, 3, 64, 128), (2, 3, 71, 128), (3, 3, 97, 65)]


@pytest.mark.parametrize(
    ('precision', 'change'),
    [
        ('fp32', dict(px=2e-3)),
        ('fp32', dict(score=2e-4)),
        ('fp32', dict(px=torch.nan)),
        ('fp16', dict(px=8.0)),
        ('fp16', dict(score=0.03)),
    ],
)
def test_what_is_too_far_off_fails(precision, change, trained):
    with pytest.raises(ValueError, match='too far from the model in float64'):
        check(off_by(trained, **change), trained, precision, noise(), OUT)


class Noisy(nn.Module):
    """Adds a large number and takes it away, which in float32 leaves multiples of 1/128 of maps."""

    def forward(self, maps):
        return tuple(x + 1e5 - 1e5 for x in maps)


def test_a_file_may_be_a_few_times_as_far_off_as_torch_in_float32(trained):
    """Where float32 is noisy by itself, more is allowed; the exact file has no error."""
    noisy = deepcopy(trained)
    noisy.model.neck = nn.Sequential(noisy.model.neck, Noisy())
    own = check(noisy, noisy, 'fp32', noise(), OUT)
    assert own.boxes > 0.01 and own.scores > 2e-4
    allowed = dict(px=3.5 * own.boxes, score=3.5 * own.scores)
    found = check(off_by(noisy, **allowed), noisy, 'fp32', noise(), OUT)
    assert found.boxes == pytest.approx(3.5 * own.boxes, rel=0.01)
    for change in (dict(px=4.5 * own.boxes), dict(score=4.5 * own.scores)):
        with pytest.raises(ValueError, match='torch in float32: box sides'):
            check(off_by(noisy, **change), noisy, 'fp32', noise(), OUT)


def test_half_is_allowed_what_half_rounds(trained):
    found = check(
        off_by(trained, px=0.1, score=0.01), trained, 'fp16', blurred_noise((64, 128)), OUT
    )
    assert found.boxes == pytest.approx(0.1, rel=0.01) and 0.9 < found.iou < 1


@torch.no_grad()
def test_raw_outputs_are_compared_decoded(detector):
    raw, _ = graphs(detector.model, decodes=False, half=False)

    def run(image):
        return [level + (0.01 if number == 4 else 0) for number, level in enumerate(raw(image))]

    # The same to all logits of a distance changes nothing, and so to the file's boxes.
    assert check(run, raw, 'fp32', noise(), OUT).boxes < 1e-3


@torch.no_grad()
def test_labels_may_differ_where_the_model_hardly_decides(segmentor):
    trained, _ = graphs(segmentor.model, decodes=True, half=False)
    raw, _ = graphs(segmentor.model, decodes=False, half=False)
    exact = deepcopy(raw).double()

    def biased(by):
        def run(image):
            logits = exact.logits(image.double())
            logits[:, 0] += by
            return [logits]

        return run

    def labels(by):
        return lambda image: [biased(by)(image)[0].argmax(dim=1)]

    same = check(labels(0), trained, 'fp32', noise(), OUT)
    assert same.logits < 1e-5 and same.labels > 0.9999
    near = check(labels(9e-4), trained, 'fp32', noise(), OUT)
    assert near.logits < 9.1e-4 and near.labels > 0.99
    assert check(biased(9e-4), raw, 'fp32', noise(), OUT).logits == pytest.approx(9e-4, rel=0.01)
    for run, graph in ((labels(0.5), trained), (biased(2e-3), raw)):
        with pytest.raises(
            ValueError, match='too far .*: logits .*; allowed: logits differ by 1.0e-03'
        ):
            check(run, graph, 'fp32', noise(), OUT)
    with pytest.raises(ValueError, match='the same label at'):
        check(labels(5), trained, 'fp16', noise(), OUT)
