"""What a test writes: no picture and no label map over another."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from castling_det.visualization.boxes import LegibleVisualizer
from castling_det.visualization.hooks import LabelMapHook, OverlayHook, path_below_images
from castling_det.visualization.label_maps import LegendVisualizer

META = dict(classes=('sky', 'road', 'tree'), palette=[(0, 0, 255), (200, 0, 0), (0, 255, 0)])
FILES = ('a/1.png', 'b/1.png', 'b/1.bmp')


def runner_of(dataset: object, visualizer: object = None) -> SimpleNamespace:
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(test_dataloader=loader, visualizer=visualizer, iter=0)


@pytest.fixture
def images(tmp_path) -> Path:
    """Images of 40x60 px, two of one stem and two of one name."""
    for file in FILES:
        (tmp_path / 'images' / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / 'images' / file), np.full((40, 60, 3), 100, np.uint8))
    return tmp_path / 'images'


def label_sample(path: Path, label: int, **fields) -> SegDataSample:
    made = SegDataSample(metainfo=dict(fields, img_path=str(path)))
    made.gt_sem_seg = PixelData(data=torch.ones(1, 40, 60, dtype=torch.long))
    made.pred_sem_seg = PixelData(data=torch.full((1, 40, 60), label))
    return made


def box_sample(path: Path) -> DetDataSample:
    boxes = InstanceData(
        bboxes=torch.tensor([[5.0, 5, 30, 30]]), labels=torch.tensor([1]), scores=torch.ones(1)
    )
    made = DetDataSample(metainfo=dict(img_path=str(path)), pred_instances=boxes)
    made.gt_instances = boxes
    return made


@pytest.mark.parametrize('is_box', [False, True], ids=['labels', 'boxes'])
def test_pictures_keep_the_path_of_their_image(images, tmp_path, is_box):
    visualizer = LegibleVisualizer(least_size=1) if is_box else LegendVisualizer(least_size=40)
    visualizer.dataset_meta = META
    make = box_sample if is_box else lambda path: label_sample(path, 2)
    runner = runner_of(SimpleNamespace(data_prefix=dict(img=str(images))), visualizer)
    out = tmp_path / 'out'
    hook = OverlayHook(draw=True, test_out_dir=str(out))
    hook.after_test_iter(runner, 0, {}, [make(images / file) for file in FILES])
    drawn = sorted(str(file.relative_to(out)) for file in out.rglob('*.png'))
    assert drawn == ['a/1.png', 'b/1.bmp.png', 'b/1.png']
    picture = cv2.imread(str(out / 'a' / '1.png'))[..., ::-1]
    if is_box:
        assert picture.shape == (40, 120, 3)
    else:
        assert (picture[10, 10] == (160, 40, 40)).all()
        right = picture[:, picture.shape[1] // 2 :]
        assert (right == (40, 193, 40)).all(axis=2).sum() == 40 * 60


def test_label_maps_keep_the_path_of_their_image(images, tmp_path):
    runner = runner_of(SimpleNamespace(data_prefix=dict(img_path=str(images))))
    hook = LabelMapHook(str(tmp_path / 'out'))
    samples = [
        label_sample(images / FILES[0], 2),
        label_sample(images / FILES[1], 2, reduce_zero_label=True),
    ]
    hook.after_test_iter(runner, 0, {}, samples)
    for file, label in zip(FILES, (2, 3), strict=False):
        written = Image.open(tmp_path / 'out' / file)
        assert written.mode == 'L' and set(written.getdata()) == {label}


def test_joined_data_sets_keep_apart():
    first, second = (SimpleNamespace(data_prefix=dict(img=f'/data/{name}/images')) for name in 'ab')
    runner = runner_of(SimpleNamespace(datasets=[first, SimpleNamespace(dataset=second)]))
    place = path_below_images(runner, SimpleNamespace(img_path='/data/b/images/1.png'))
    assert place == Path('b/images/1.png')
    elsewhere = path_below_images(runner, SimpleNamespace(img_path='/more/1.png'))
    assert elsewhere == Path('more/1.png')
