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

from castling_det.visualization.drawing import write_picture
from castling_det.visualization.hooks import (
    LabelMapHook,
    LastValidationHook,
    OverlayHook,
    path_below_images,
)

META = dict(classes=('sky', 'road', 'tree'), palette=[(0, 0, 255), (200, 0, 0), (0, 255, 0)])
SCALE, CAPTION = 9, 20  # sqrt(40 * 60) px become more than 400; the line with 'truth'
FILES = ('a/1.png', 'b/1.png', 'b/1.bmp')


class Loader(list):
    """Batches, and the data set that they are of."""


def runner_of(dataset: object) -> SimpleNamespace:
    return SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset), iter=0)


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
    make = box_sample if is_box else lambda path: label_sample(path, 2)
    runner = runner_of(SimpleNamespace(data_prefix=dict(img=str(images)), metainfo=META))
    out = tmp_path / 'out'
    hook = OverlayHook(draw=True, test_out_dir=str(out))
    hook.after_test_iter(runner, 0, {}, [make(images / file) for file in FILES])
    drawn = sorted(str(file.relative_to(out)) for file in out.rglob('*.png'))
    assert drawn == ['a/1.png', 'b/1.bmp.png', 'b/1.png']
    picture = cv2.imread(str(out / 'a' / '1.png'))[..., ::-1]
    height, width = 40 * SCALE, 60 * SCALE
    above, below = np.split(picture, [len(picture) // 2])
    if is_box:
        assert above.shape == below.shape == (height + CAPTION, width, 3)
        assert (above[CAPTION:] == below[CAPTION:]).mean() > 0.9  # but for the score
        assert (above[CAPTION + 20 * SCALE, 5 * SCALE] == META['palette'][1]).all()
    else:
        assert above.shape[0] == below.shape[0] == height + CAPTION
        for part, color in ((above, (160, 40, 40)), (below, (40, 193, 40))):
            assert (part == color).all(axis=2).sum() == height * width


def test_pictures_for_the_backends_have_numbers_of_their_own(images):
    """The last batch of a test may be smaller; a validation's first batch is always drawn."""
    dataset = SimpleNamespace(metainfo=META)
    steps = []
    runner = runner_of(dataset)
    runner.val_dataloader = runner.test_dataloader
    runner.visualizer = SimpleNamespace(add_image=lambda name, _, step: steps.append((name, step)))
    hook = OverlayHook(draw=True, interval=2)
    for _ in range(2):
        hook.before_test_epoch(runner)
        for batch_idx, number in enumerate((2, 1)):
            hook.after_test_iter(
                runner, batch_idx, {}, [label_sample(images / FILES[0], 2)] * number
            )
    assert steps == [('test', 0), ('test', 1), ('test', 2)] * 2
    steps.clear()
    runner.iter = 11
    for batch_idx in range(4):
        hook.after_val_iter(runner, batch_idx, {}, [label_sample(images / FILES[0], 2)])
    assert steps == [('val', 11), ('val', 13)]


def test_pictures_too_long_for_jpeg_are_written_smaller(tmp_path):
    write_picture(tmp_path / 'a.jpg', np.full((70_000, 8, 3), 200, np.uint8))
    assert Image.open(tmp_path / 'a.jpg').size == (4, 35_000)


def test_some_images_of_the_last_validation_are_drawn(images, tmp_path):
    """Three batches; evenly spread over them are two, the first and the last."""
    dataset = SimpleNamespace(data_prefix=dict(img=str(images)), metainfo=META)
    loader = Loader([1, 2, 3])
    loader.dataset = dataset
    runner = SimpleNamespace(val_dataloader=loader, iter=5, max_iters=6)
    hook = LastValidationHook(tmp_path / 'out', number=2)
    for runner.iter in (5, 6):
        for batch_idx, file in enumerate(FILES):
            hook.after_val_iter(runner, batch_idx, {}, [label_sample(images / file, 2)] * 2)
        drawn = sorted(path.name for path in (tmp_path / 'out').rglob('*.png'))
        assert drawn == ([] if runner.iter == 5 else ['1.bmp.png', '1.png'])


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
    joined = SimpleNamespace(datasets=[first, SimpleNamespace(dataset=second)])
    place = path_below_images(joined, SimpleNamespace(img_path='/data/b/images/1.png'))
    assert place == Path('b/images/1.png')
    elsewhere = path_below_images(joined, SimpleNamespace(img_path='/more/1.png'))
    assert elsewhere == Path('more/1.png')
