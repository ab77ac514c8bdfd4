"""What is drawn, and the files it is written to."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from PIL import Image

from castling_det import Predictor
from castling_det.errors import InputError
from castling_det.inference import exported_model
from castling_det.inference.frames import open_frames
from castling_det.inference.pictures import Drawn, draw_predictions
from castling_det.visualization.boxes import LegibleVisualizer
from castling_det.visualization.drawing import draw, write_label_map

GREY = 90
RED, BLUE = (220, 60, 60), (70, 90, 220)  # as metainfo has them: RGB


class Oracle:
    """Predicts a good box and a poor one, whatever the image."""

    classes, palette = ('cell', 'gap'), [RED, BLUE]

    def __call__(self, images: list[np.ndarray]) -> list[dict]:
        return [found([[8, 8, 30, 28], [0, 0, 10, 10]], [0.9, 0.2]) for _ in images]


class Segmenter:
    """Predicts rows of classes, half as many classes as the image is bright."""

    classes = tuple(f'class {number}' for number in range(60))
    palette = [(number, 200, 255 - number) for number in range(60)]

    def __call__(self, images: list[np.ndarray]) -> list[dict]:
        return [
            dict(label_map=np.mgrid[: len(image), : image.shape[1]][0] % (image[0, 0, 0] // 2))
            for image in images
        ]


class Classifier:
    """Is sure of the third class, whatever the image."""

    classes, palette = tuple('abcdefg'), [RED] * 7

    def __call__(self, images: list[np.ndarray]) -> list[dict]:
        scores = np.array([0.05, 0.1, 0.6, 0.02, 0.03, 0.12, 0.08], np.float32)
        return [dict(probabilities=scores) for _ in images]


@pytest.fixture
def demo(monkeypatch):
    """What ``tools/image_demo.py`` does, with what stands in for a model."""

    def demo(model, source: Path, out: Path, score_thr: float = 0.3) -> Drawn:
        monkeypatch.setattr(exported_model, 'ExportedModel', lambda file: model)
        frames = open_frames(source, out)
        results = Predictor('model.onnx')(frames, threshold=score_thr)
        return draw_predictions(results, frames, out)

    return demo


def found(boxes: list[list[float]], scores: list[float]) -> dict[str, np.ndarray]:
    return dict(
        boxes=np.array(boxes, np.float32),
        scores=np.array(scores, np.float32),
        labels=np.arange(len(scores)) % 2,
    )


def sample(boxes: list[list[float]], scores: list[float]) -> DetDataSample:
    arrays = {name: torch.from_numpy(each) for name, each in found(boxes, scores).items()}
    arrays['bboxes'] = arrays.pop('boxes')
    return DetDataSample(pred_instances=InstanceData(**arrays))


def blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


@pytest.fixture
def visualizer() -> LegibleVisualizer:
    visualizer = LegibleVisualizer(least_size=1)
    visualizer.dataset_meta = dict(classes=Oracle.classes, palette=Oracle.palette)
    return visualizer


def test_boxes_at_and_over_the_border_leave_the_image_where_it_is(visualizer):
    picture = draw(
        visualizer, blank(64, 200), sample([[-5, -5, 90, 30], [150, 40, 210, 70]], [1, 1])
    )
    assert picture.shape == (64, 200, 3)
    assert (picture[40:, :100] == GREY).all()
    assert (picture[:20, 120:] == GREY).all()  # above the label


def test_line_is_drawn_where_the_box_is_in_its_colour(visualizer):
    picture = draw(visualizer, blank(100, 100), sample([[20, 30, 80, 90]], [1]))
    red, green, blue = picture[60, 80].astype(int)
    assert red > green + 60 and red > blue + 60
    assert (picture[60, 70] == GREY).all() and (picture[60, 90] == GREY).all()


def test_small_image_is_drawn_larger_by_a_whole_number(visualizer):
    visualizer.least_size = 100
    predicted = sample([[10, 20, 30, 35]], [1])
    picture = draw(visualizer, blank(40, 40), predicted)
    assert picture.shape == (120, 120, 3)
    column = np.abs(picture[95].astype(int) - GREY).sum(axis=1)
    assert set(np.flatnonzero(column > 100)) <= {*range(28, 33), *range(88, 93)}
    assert column[30] > 100 and column[90] > 100
    assert predicted.pred_instances.bboxes.tolist() == [[10, 20, 30, 35]]


def test_image_without_boxes_comes_back_as_it_is(visualizer):
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    empty = DetDataSample(
        pred_instances=InstanceData(
            bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
        )
    )
    assert (draw(visualizer, noise, empty) == noise).all()


def test_pictures_and_json_of_a_folder(tmp_path, demo):
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    for name in ('a.png', 'b.bmp'):
        cv2.imwrite(str(source / name), blank(400, 500))
    (source / 'c.jpg').write_text('')
    assert demo(Oracle(), source, out) == Drawn(2, 2, np.float32(0.9))
    assert sorted(file.name for file in out.iterdir()) == ['a.png', 'b.bmp.png', 'predictions.json']
    picture = cv2.imread(str(out / 'b.bmp.png'))
    assert picture.shape == (400, 500, 3) and (picture != GREY).any()
    box = dict(bbox_xyxy=[8, 8, 30, 28], score=0.9, label='cell')
    found = json.loads((out / 'predictions.json').read_text())
    assert found == [dict(file=name, predictions=[box]) for name in ('a.png', 'b.bmp')]
    assert demo(Oracle(), source, out, 0.95) == Drawn(2, 0, np.float32(0.9))


def test_video_stays_a_video(tmp_path, demo):
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(str(tmp_path / 'a.avi'), codec, 5, (512, 320))
    for _ in range(3):
        video.write(blank(320, 512))
    video.release()
    out = tmp_path / 'out'
    assert demo(Oracle(), tmp_path / 'a.avi', out, 0.1) == Drawn(3, 6, np.float32(0.9))
    drawn = open_frames(out / 'a.mp4')
    assert (len(drawn), drawn.frame_rate) == (3, 5)
    assert next(iter(drawn)).image.shape == (320, 512, 3)
    found = json.loads((out / 'predictions.json').read_text())
    assert [(each['frame'], len(each['predictions'])) for each in found] == [(0, 2), (1, 2), (2, 2)]


def test_label_maps_of_a_folder(tmp_path, demo):
    """A palette PNG whose numbers are classes, beside the overlay with its legend."""
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    for name in ('a.jpg', 'a.bmp'):
        cv2.imwrite(str(source / name), blank(64, 96))
    assert demo(Segmenter(), source, out) == Drawn(2, None, None)
    files = sorted(str(file.relative_to(out)) for file in out.rglob('*.*'))
    assert files == [
        *('a.bmp.png', 'a.jpg', 'label_maps/a.bmp.png', 'label_maps/a.jpg.png'),
        'predictions.json',
    ]
    first, _ = json.loads((out / 'predictions.json').read_text())
    assert first['file'] == 'a.bmp' and len(first['predictions']) == 45
    assert first['predictions'][0] == dict(label='class 0', share=round(2 / 64, 4))
    label_map = Image.open(out / 'label_maps' / 'a.jpg.png')
    assert label_map.mode == 'P'
    assert (np.asarray(label_map) == np.arange(64)[:, None] % 45 * np.ones(96)).all()
    assert label_map.convert('RGB').getpixel((50, 44)) == (44, 200, 211)
    picture = cv2.imread(str(out / 'a.bmp.png'))
    assert picture.shape[0] == 64 * 6 and picture.shape[1] > 96 * 6
    expected = 0.4 * GREY + 0.6 * np.array([211, 200, 44])  # blue, green, red
    assert np.abs(picture[44 * 6 + 3, 300] - expected).max() <= 1


def test_video_of_label_maps_has_all_its_frames(tmp_path, demo):
    """Whatever the width of their legends, of 3 columns and of 1."""
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(str(tmp_path / 'a.avi'), codec, 5, (96, 64))
    for grey in (90, 20, 118):
        video.write(np.full((64, 96, 3), grey, np.uint8))
    video.release()
    out = tmp_path / 'out'
    assert demo(Segmenter(), tmp_path / 'a.avi', out).num_images == 3
    drawn = [frame.image for frame in open_frames(out / 'a.mp4')]
    assert len(drawn) == 3 and len({image.shape for image in drawn}) == 1
    assert (drawn[1][:, -100:] > 240).all() and (drawn[0][:, -100:] < 128).any()
    names = [f'a.avi.{number:06d}.png' for number in range(3)]
    assert sorted(file.name for file in (out / 'label_maps').iterdir()) == names


def test_classes_that_do_not_fit_into_a_file(tmp_path):
    with pytest.raises(ValueError, match='a.png: 257 classes do not fit into 8 bits'):
        write_label_map(tmp_path / 'a.png', np.zeros((2, 2), int), [(0, 0, 0)] * 257)
    assert not list(tmp_path.iterdir())


def test_input_is_not_overwritten(tmp_path, demo):
    cv2.imwrite(str(tmp_path / 'a.png'), blank(30, 40))
    for source in (tmp_path, tmp_path / 'a.png'):
        with pytest.raises(ValueError, match='holds the input'):
            demo(Oracle(), source, Path(tmp_path, '.'))


def test_nothing_readable_is_an_error(tmp_path, demo):
    (tmp_path / 'a.jpg').write_text('not an image')
    with pytest.raises(ValueError, match='none of the 1 images can be read .*a.jpg: damaged'):
        demo(Oracle(), tmp_path, tmp_path / 'out')
    assert not list((tmp_path / 'out').iterdir())


def test_what_was_found_before_a_crash_is_kept(tmp_path, demo):
    for name in 'abc':
        (tmp_path / 'in').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'in' / f'{name}.png'), blank(400, 500))
    seen = []

    class Crash(Oracle):
        def __call__(self, images: list[np.ndarray]) -> list[dict]:
            seen.extend(images)
            if len(seen) == 3:
                raise RuntimeError('out of memory')
            return super().__call__(images)

    out = tmp_path / 'out'
    with pytest.raises(RuntimeError, match='out of memory'):
        demo(Crash(), tmp_path / 'in', out)
    lines = (out / 'predictions.unfinished.jsonl').read_text().splitlines()
    assert [json.loads(line)['file'] for line in lines] == ['a.png', 'b.png']
    demo(Oracle(), tmp_path / 'in', out)
    assert len(json.loads((out / 'predictions.json').read_text())) == 3
    assert not (out / 'predictions.unfinished.jsonl').exists()


@pytest.mark.parametrize('model', [Oracle(), Segmenter()], ids=['boxes', 'labels'])
def test_images_of_one_name_in_several_folders(tmp_path, demo, model):
    """Nothing overwrites another, and what was drawn before is no input."""
    names = ['a.png', 'left/a.png', 'left/deep/a.png', 'right/a.png']
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), blank(64, 96))
    out = tmp_path / 'left' / 'drawn'
    for _ in range(2):
        assert demo(model, tmp_path, out).num_images == 4
    drawn = sorted(str(file.relative_to(out)) for file in out.rglob('*.png'))
    if isinstance(model, Oracle):
        assert drawn == names
        found = json.loads((out / 'predictions.json').read_text())
        assert [record['file'] for record in found] == names
    else:
        assert drawn == sorted([*names, *(f'label_maps/{name}.png' for name in names)])


@pytest.mark.parametrize(
    ('first', 'second'), [('a.bmp', 'a.bmp.png'), ('a.png', 'label_maps/a.png.png')]
)
def test_two_images_that_would_become_one_file(tmp_path, demo, first, second):
    (tmp_path / 'label_maps').mkdir()
    for name in (first, second):
        cv2.imwrite(str(tmp_path / name), blank(30, 40))
    said = f'{first} and {second} would become one .*/out/.*png: rename one of them'
    with pytest.raises(InputError, match=said):
        demo(Oracle(), tmp_path, tmp_path / 'out')


def test_a_label_map_of_256_classes(tmp_path):
    palette = [(number, 0, 255 - number) for number in range(256)]
    write_label_map(tmp_path / 'a.png', np.arange(256).reshape(16, 16), palette)
    written = Image.open(tmp_path / 'a.png')
    assert (np.asarray(written) == np.arange(256).reshape(16, 16)).all()
    assert written.convert('RGB').getpixel((15, 15)) == (255, 0, 0)


def test_classes_are_written_on_the_picture_and_as_data(tmp_path, demo):
    cv2.imwrite(str(tmp_path / 'a.png'), blank(150, 200))
    out = tmp_path / 'out'
    assert demo(Classifier(), tmp_path, out, 0.9) == Drawn(1, None, None)
    (found,) = json.loads((out / 'predictions.json').read_text())
    assert [record['label'] for record in found['predictions']] == ['c', 'f', 'b', 'g', 'a']
    assert found['file'] == 'a.png' and found['predictions'][0] == dict(score=0.6, label='c')
    drawn = cv2.imread(str(out / 'a.png'))
    assert drawn.shape == (450, 600, 3)  # three times as large
    text, rest = drawn[:150, :150], drawn[200:]
    assert (rest == GREY).all() and (text.min(), text.max()) < (GREY, 255) and text.max() > 240
