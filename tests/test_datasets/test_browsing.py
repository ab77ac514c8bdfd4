"""Samples as they leave a pipeline, with their boxes or label maps."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

import castling_det  # noqa: F401  mmdet can be imported from here on, compiled or not
from castling_det.datasets.browsing import drawn_samples

COLOUR = (250, 40, 40)  # RGB
BOX = (300, 100, 200, 240)  # x, y, width, height on images of 480 x 640


def pipeline(*, annotations_last: bool) -> list[dict]:
    steps = [
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(400, 480), keep_ratio=False),
    ]
    return [
        dict(type='LoadImageFromFile'),
        *(steps[::-1] if annotations_last else steps),
        dict(type='PackDetInputs'),
    ]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Five black images with one box each; all share the place of the box."""
    names = [f'{number}.png' for number in range(5)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((480, 640, 3), np.uint8))
    content = dict(
        images=[
            dict(id=number, file_name=name, height=480, width=640)
            for number, name in enumerate(names)
        ],
        annotations=[
            dict(
                id=number, image_id=number, category_id=1, bbox=BOX, area=BOX[2] * BOX[3], iscrowd=0
            )
            for number in range(5)
        ],
        categories=[dict(id=1, name='cat')],
    )
    (tmp_path / 'all.json').write_text(json.dumps(content))
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='all.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cat',), palette=[COLOUR]),
    )
    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=dict(dataset=dict(dataset, pipeline=pipeline(annotations_last=False))),
            val_dataloader=dict(
                dataset=dict(dataset, test_mode=True, pipeline=pipeline(annotations_last=True))
            ),
        )
    )


@pytest.fixture
def seg_cfg(tmp_path: Path) -> Config:
    """Two black images of 480 x 640; 0 is ignored, the upper half is 2, the lower half 1 below."""
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    labels = np.full((480, 640), 2, np.uint8)
    labels[240:], labels[:, :320] = 1, 0
    for name in 'ab':
        cv2.imwrite(str(tmp_path / 'images' / f'{name}.jpg'), np.zeros((480, 640, 3), np.uint8))
        cv2.imwrite(str(tmp_path / 'labels' / f'{name}.png'), labels)
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    resize, pack = (
        dict(type='Resize', scale=(400, 480), keep_ratio=False),
        dict(type='PackSegInputs'),
    )
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('cat', 'dog', 'owl'), palette=[COLOUR, (40, 250, 40), (0, 0, 250)]),
        reduce_zero_label=True,
    )
    load[1]['reduce_zero_label'] = True
    return Config(
        dict(
            default_scope='mmseg',
            train_dataloader=dict(dataset=dict(dataset, pipeline=[*load, resize, pack])),
            val_dataloader=dict(
                dataset=dict(dataset, test_mode=True, pipeline=[load[0], resize, load[1], pack])
            ),
        )
    )


@pytest.mark.parametrize('split', ['train', 'val'])
def test_label_maps_lie_on_the_resized_image(seg_cfg, split):
    """Colours where the classes are, none where the label is ignored, and a legend beside."""
    pictures = dict(drawn_samples(seg_cfg, split, num=5))
    assert list(pictures) == ['000000_a', '000001_b']
    picture = pictures['000001_b']
    assert picture.shape[0] == 480 and picture.shape[1] > 400
    scene, legend = picture[:, :400], picture[:, 400:].reshape(-1, 3).tolist()
    assert (scene[:, :199] == 0).all()
    assert np.abs(scene[:239, 201:].astype(int) - (24, 150, 24)).max() <= 1
    assert np.abs(scene[241:, 201:].astype(int) - (150, 24, 24)).max() <= 1
    assert [40, 250, 40] in legend and [250, 40, 40] in legend and [0, 0, 250] not in legend


def red_box(picture: np.ndarray) -> list[int]:
    """Outline of the box in the class's colour, x1, y1, x2, y2; its label is above on the left."""
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    ys, xs = np.nonzero((red > 120) & (green < 60) & (blue < 60))
    on_the_right = ys[xs == xs.max()]
    return [xs.min(), on_the_right.min(), xs.max(), on_the_right.max()]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_fit_on_the_resized_image(cfg, split):
    pictures = dict(drawn_samples(cfg, split, num=3))
    assert list(pictures) == ['000000_0', '000002_2', '000004_4']
    picture = pictures['000002_2']
    assert picture.shape == (480, 400, 3)
    wanted = [300 * 400 / 640, 100, 500 * 400 / 640, 340]
    assert np.allclose(red_box(picture), wanted, atol=3)


def test_colours_beyond_the_range_are_clipped(cfg):
    """A float image of brightness 300 is white; cast to uint8 as it is, it would be dark."""
    white = dict(type='PhotoMetricDistortion', brightness_delta=0, contrast_range=(3, 3))
    white.update(saturation_range=(1, 1), hue_delta=0)
    cfg.train_dataloader.dataset.pipeline.insert(3, white)
    path = str(Path(cfg.train_dataloader.dataset.data_root, '0.png'))
    cv2.imwrite(path, np.full((480, 640, 3), 100, np.uint8))
    np.random.seed(0)
    pictures = (next(drawn_samples(cfg, 'train', num=1))[1] for _ in range(5))
    corners = {int(picture[-5, 5, 0]) for picture in pictures}
    assert corners == {100, 255}


def test_no_more_than_there_are(cfg):
    assert len(list(drawn_samples(cfg, 'train', num=20))) == 5


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_unreadable_image_is_named(cfg, tmp_path, split, wrapped):
    (tmp_path / '0.png').write_bytes(b'no image')
    loader = cfg[f'{split}_dataloader']
    loader.dataset.pipeline[0].backend_args = None
    if wrapped:
        loader.dataset = dict(type='RepeatDataset', times=2, dataset=loader.dataset)
    with pytest.raises(ValueError, match=rf'{tmp_path}/0\.png is missing, damaged or not an image'):
        list(drawn_samples(cfg, split, num=1))


def test_missing_split_is_named(cfg):
    with pytest.raises(ValueError, match='no test_dataloader'):
        next(drawn_samples(cfg, 'test', num=1))


def test_tool_writes_the_pictures(cfg, tmp_path, call):
    cfg.dump(tmp_path / 'config.py')
    out = tmp_path / 'out'
    words = [tmp_path / 'config.py', '--out-dir', out, '--split', 'val', '--num', 2]
    assert f'samples of val drawn: 2; see {out}' in call('browse_dataset', *words)
    assert sorted(path.name for path in out.iterdir()) == ['000000_0.png', '000004_4.png']
