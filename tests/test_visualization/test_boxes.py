"""Boxes whose labels can be read: none over another, none beyond the picture."""

from itertools import combinations

import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from castling_det.inference.run_onnx import place_labels
from castling_det.visualization.boxes import LegibleVisualizer
from castling_det.visualization.palette import COLORS

NAMES = ('cat', 'dog')


def drawn(instances: InstanceData, size: tuple[int, int] = (80, 100)) -> np.ndarray:
    image = np.full((*size, 3), 100, np.uint8)
    return LegibleVisualizer(least_size=1)._draw_instances(image, instances, NAMES, None)


def test_labels_of_crowded_boxes_do_not_overlap():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (60, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    sizes = rng.uniform((20, 8), (60, 14), (60, 2))
    places = list(place_labels(boxes, sizes, (200, 200)))
    pairs = zip(places, sizes, strict=True)
    rectangles = [(*place, *(place + size)) for place, size in pairs if place]
    assert 20 < len(rectangles) < 60
    for left, top, right, bottom in rectangles:
        assert min(left, top) >= 0 and max(right, bottom) <= 200
    for a, b in combinations(rectangles, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_label_stands_above_its_box_or_where_there_is_room():
    boxes = [(10, 30, 60, 60), (10, 30, 60, 60), (10, 5, 60, 25), (90, 40, 100, 50)]
    places = list(place_labels(boxes, [(30, 10)] * 4, (80, 100)))
    assert places == [(10, 20), (10, 30), (10, 5), (70, 30)]
    assert list(place_labels([(0, 0, 9, 9)], [(30, 90)], (80, 100))) == [None]


def test_boxes_have_the_colour_of_their_class_and_end_within_the_image():
    boxes = torch.tensor([[10.0, 30, 60, 60], [50, 40, 150, 90]])
    picture = drawn(InstanceData(bboxes=boxes, labels=torch.tensor([0, 1])))
    assert picture.shape == (80, 100, 3)
    assert (picture[45, 10] == COLORS[0]).all() and (picture[60, 30] == COLORS[0]).all()
    assert (picture[70, 99] == COLORS[1]).all() and (picture[79, 80] == COLORS[1]).all()
    assert (picture[70, 20] == 100).all()


def test_masks_are_laid_over_the_image_with_boxes_and_without():
    mask = np.zeros((2, 80, 100), np.uint8)
    mask[0, 40:60, 20:50] = 1
    for masks in (torch.from_numpy(mask).bool(), BitmapMasks(list(mask), 80, 100)):
        found = InstanceData(masks=masks, labels=torch.tensor([1, 0]))
        for boxes in (None, torch.tensor([[20.0, 40, 50, 60], [0, 0, 0, 0]])):
            if boxes is not None:
                found.bboxes = boxes
            picture = drawn(found)
            half = (100 + np.array(COLORS[1])) // 2
            assert (picture[55, 40] == half).all() and (picture[75, 75] == 100).all()
            assert (picture[50, 20] == COLORS[1]).all()  # the box around the mask


def test_an_image_without_objects_stays_as_it_is():
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    assert (drawn(nothing) == 100).all()
