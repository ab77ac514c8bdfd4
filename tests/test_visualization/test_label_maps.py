"""Overlays: colours where the labels are, the image where there are none, and the legend."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from castling_det.errors import InputError
from castling_det.segmentation import LegendVisualizer
from castling_det.visualization.drawing import truth_above_prediction, write_label_map

META = dict(classes=('sky', 'road', 'tree'), palette=[(0, 0, 255), (200, 0, 0), (0, 255, 0)])


def test_label_maps_of_up_to_256_classes(tmp_path):
    palette = [(number, 255 - number, 7) for number in range(256)]
    labels = np.arange(256).reshape(16, 16)
    write_label_map(tmp_path / 'a.png', labels, palette)
    picture = Image.open(tmp_path / 'a.png')
    assert np.array_equal(np.asarray(picture), labels)
    assert np.array_equal(np.asarray(picture.convert('RGB')).reshape(-1, 3), palette)
    with pytest.raises(InputError, match='b.png: 257 classes do not fit into 8 bits a pixel'):
        write_label_map(tmp_path / 'b.png', labels, [*palette, (0, 0, 0)])
    assert not (tmp_path / 'b.png').exists()


def test_a_photo_that_was_loaded_as_it_is_stored_is_drawn_so(tmp_path):
    """Its labels fit the stored pixels, which EXIF would turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:, 30:] = 200
    Image.fromarray(photo).save(tmp_path / 'a.png', exif=exif)
    data = PixelData(data=torch.full((1, 40, 60), 255))
    sample = SegDataSample(gt_sem_seg=data, pred_sem_seg=data)
    sample.set_metainfo(dict(img_path=str(tmp_path / 'a.png'), ori_shape=(40, 60)))
    picture = truth_above_prediction(sample, META, 0.3)
    top, size = np.flatnonzero((picture[:, 0] == 0).all(-1))[0], len(picture)
    scale = (size - 2 * top) // 80
    drawn = picture[top : top + 40 * scale : scale, : 60 * scale : scale]
    assert np.array_equal(drawn, photo)


@pytest.fixture
def labels():
    """40x60: road left of column 30, sky right of it, and the two top rows without a label."""
    labels = np.zeros((40, 60), np.int64)
    labels[:, :30] = 1
    labels[:2] = 255
    return labels


@pytest.fixture
def visualizer():
    """The current one, which hooks take; small images stay small."""
    visualizer = LegendVisualizer.get_instance('overlay')
    visualizer.least_size = 40
    visualizer.dataset_meta = META
    return visualizer


def test_colours_and_legend(visualizer, labels):
    image = np.full((40, 60, 3), 100, np.uint8)
    drawn = visualizer._draw_sem_seg(
        image, PixelData(data=torch.as_tensor(labels)[None]), META['classes'], META['palette']
    )
    assert drawn.shape[0] == 40 and drawn.shape[1] > 60
    assert (drawn[:2, :60] == 100).all()
    assert (drawn[2:, :30] == (160, 40, 40)).all()  # 0.4 * 100 + 0.6 * colour
    assert (drawn[2:, 30:60] == (40, 40, 193)).all()
    legend = drawn[:, 60:].reshape(-1, 3).tolist()
    assert [200, 0, 0] in legend and [0, 0, 255] in legend
    assert [0, 255, 0] not in legend  # there is no tree


def test_long_names_are_written_whole(visualizer, labels):
    """Two lines fit into 40 px: the third name stands in a column of its own."""
    labels[30:] = 2
    drawn = visualizer._draw_sem_seg(
        np.zeros((40, 60, 3), np.uint8),
        PixelData(data=torch.as_tensor(labels)[None]),
        ('sky', 'road that is more than a column long', 'tree'),
        META['palette'],
    )
    first, second = np.split(drawn[:, 60:], 2, axis=1)
    assert first.shape[1] > 200
    assert (first[:, -30:-4] < 128).any() and (first[:, -4:] == 255).all()
    assert (second[:18, 20:60] < 128).any() and (second[18:] == 255).all()


def test_small_images_are_enlarged(visualizer, labels):
    visualizer.least_size = 100
    image = np.zeros((40, 60, 3), np.uint8)
    drawn = visualizer._draw_sem_seg(
        image,
        PixelData(data=torch.as_tensor(labels)[None]),
        META['classes'],
        META['palette'],
        with_labels=False,
    )
    assert drawn.shape == (120, 180, 3)
