"""Trained models as functions of images, and all that a predictor takes, gives and refuses."""

import json
import re
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from torch.nn import functional as F

from castling_det import Predictor
from castling_det.datasets import CLASSES
from castling_det.errors import InputError
from castling_det.inference.result import Result
from castling_det.inference.trained_model import TrainedModel

ROOT = Path(__file__).parents[2]
CONFIG = next(ROOT.glob('configs/castling_picodet/castling-picodet_levit-nano_*.py'))
SEGMENTOR = next(ROOT.glob('configs/castling_seg/castling-segformer_vit-nano_*camvid*.py'))
SIZE = [int(side) for side in CONFIG.stem.rpartition('-')[2].split('x')]  # height, width


@pytest.fixture(scope='module')
def cfg() -> Config:
    return Config.fromfile(CONFIG)


def alive(cfg: Config, size: list[int]) -> torch.nn.Module:
    """A model of random weights, with batch norm statistics that let the image through."""
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(2, 3, *size), mode='tensor')
    model.eval()
    return model


@pytest.fixture(scope='module')
def model(cfg) -> torch.nn.Module:
    return alive(cfg, SIZE)


@pytest.fixture(scope='module')
def checkpoint(cfg, model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('checkpoint') / 'nano.pth'
    meta = dict(dataset_meta=dict(classes=[*'abcdef']), cfg=cfg.pretty_text)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def image() -> np.ndarray:
    """RGB."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, (200, 90), interpolation=cv2.INTER_CUBIC)


def normalised(cfg: Config, resized: np.ndarray) -> torch.Tensor:
    inputs = torch.from_numpy(resized.transpose(2, 0, 1).copy()).float()[None]
    mean, std = (torch.tensor(cfg.model.data_preprocessor[key]) for key in ('mean', 'std'))
    return (inputs - mean[:, None, None]) / std[:, None, None]


@pytest.fixture(scope='module')
def expected(cfg, model, image) -> InstanceData:
    """The model called directly: resized, batched, normalised and rescaled without a pipeline."""
    height, width = SIZE
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    inputs = normalised(cfg, resized)
    meta = dict(
        ori_shape=image.shape[:2],
        img_shape=(height, width),
        scale_factor=(width / image.shape[1], height / image.shape[0]),
    )
    with torch.no_grad():
        (sample,) = model.predict(inputs, [DetDataSample(metainfo=meta)])
    assert len(sample.pred_instances) > 5 and sample.pred_instances.scores.std() > 0.01
    return sample.pred_instances


def test_detector_predicts_what_the_model_does(cfg, checkpoint, image, expected):
    (found,) = TrainedModel(cfg, checkpoint)([image])
    assert np.array_equal(found['labels'], expected.labels)
    assert np.allclose(found['scores'], expected.scores, atol=1e-5)
    assert np.allclose(found['boxes'], expected.bboxes, atol=1e-2)


def test_mmdet_inferencer_predicts_what_the_model_does(checkpoint, image, expected):
    inferencer = DetInferencer(str(CONFIG), str(checkpoint), device='cpu', show_progress=False)
    (found,) = inferencer(image[..., ::-1])['predictions']
    assert found['labels'] == expected.labels.tolist()
    assert np.allclose(found['scores'], expected.scores, atol=1e-5)
    assert np.allclose(found['bboxes'], expected.bboxes, atol=1e-2)


@pytest.mark.parametrize(
    'windows', [None, [(0, 0), (0, 96), (0, 128), (64, 0), (64, 96), (64, 128)]]
)
def test_segmentor_predicts_what_the_model_does(image, tmp_path, windows):
    """Whole, and in windows of 128 px each 64 and 96 px; label maps are not asked for."""
    cfg = Config.fromfile(SEGMENTOR)
    cfg.pop('test_pipeline')
    model = alive(cfg, [192, 256])
    torch.save(model.state_dict(), tmp_path / 'seg.pth')
    resized = cv2.resize(image, (256, 192), interpolation=cv2.INTER_LINEAR)
    inputs = normalised(cfg, resized)
    logits, times = torch.zeros(1, 11, 192, 256), torch.zeros(192, 256)
    with torch.no_grad():
        for y, x in windows or [(0, 0)]:
            place = (..., slice(y, y + 128), slice(x, x + 128)) if windows else ...
            seen = inputs[place]
            logits[place] += F.interpolate(model(seen), seen.shape[-2:], mode='bilinear')
            times[place] += 1
    logits = F.interpolate(logits / times, image.shape[:2], mode='bilinear')
    expected = logits.argmax(1)
    assert len(expected.unique()) > 2
    if windows:
        cfg.model.test_cfg = dict(mode='slide', crop_size=(128, 128), stride=(64, 96))
    predict = TrainedModel(cfg, tmp_path / 'seg.pth')
    assert predict.classes[3] == 'Road'
    found = predict([image])[0]['label_map']
    assert found.shape == image.shape[:2] and found.dtype == np.int64
    assert (found == expected[0].numpy()).mean() > 0.999


def test_names_are_the_checkpoints_or_else_the_configs(cfg, model, checkpoint, tmp_path):
    assert TrainedModel(cfg, checkpoint).classes == tuple('abcdef')
    torch.save(model.state_dict(), tmp_path / 'bare.pth')
    assert TrainedModel(cfg, tmp_path / 'bare.pth').classes == CLASSES


def test_checkpoint_of_another_model_is_refused(cfg, model, tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.zeros(2))), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='other.pth is of another model'):
        TrainedModel(cfg, tmp_path / 'other.pth')
    weights = model.state_dict() | {'backbone.stem.0.weight': torch.zeros(2)}
    name, weight = next((k, v) for k, v in model.state_dict().items() if v.ndim == 4)
    torch.save(weights | {name: weight[:1]}, tmp_path / 'shape.pth')
    with pytest.raises(ValueError, match='shape.pth does not fit SingleStageDetector'):
        TrainedModel(cfg, tmp_path / 'shape.pth')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_missing_gpu_is_said_before_anything_is_read(cfg):
    with pytest.raises(ValueError, match='cuda:1: torch finds no GPU'):
        TrainedModel(cfg, 'no.pth', device='cuda:1')


def test_result_is_data_and_a_picture(tmp_path):
    result = Result(
        np.zeros((400, 500, 3), np.uint8),
        *(Path('sub/a.mp4'), 7, ('cat', 'dog'), [(255, 0, 0), (0, 0, 255)]),
        boxes=np.array([[100, 102.126, 200, 170]], np.float32),
        scores=np.array([0.98766], np.float32),
        labels=np.array([1]),
    )
    box = dict(bbox_xyxy=[100.0, 102.13, 200.0, 170.0], score=0.9877, label='dog')
    assert result.to_dict() == dict(file='sub/a.mp4', frame=7, predictions=[box])
    json.dumps(result.to_dict())
    assert result.names == ['dog']
    result.save(tmp_path / 'new' / 'a.png')
    picture = cv2.imread(str(tmp_path / 'new' / 'a.png'))[..., ::-1]
    assert np.array_equal(picture, result.draw())
    red, green, blue = picture[140, 200]
    assert blue > 150 and max(red, green) < 100
    with pytest.raises(InputError, match='a.txt: .txt is no format of pictures'):
        result.save(tmp_path / 'a.txt')


@pytest.fixture(scope='module')
def predict(checkpoint) -> Predictor:
    """With the config that the checkpoint holds."""
    return Predictor(checkpoint)


def test_predictor_gives_what_the_model_does(predict, image, expected):
    (result,) = predict(image, threshold=0)
    assert (result.image is image, result.path, result.frame) == (True, None, None)
    assert np.array_equal(result.labels, expected.labels)
    assert np.allclose(result.scores, expected.scores, atol=1e-5)
    assert np.allclose(result.boxes, expected.bboxes, atol=1e-2)
    assert result.names == ['abcdef'[label] for label in expected.labels]
    assert result.best_score == result.scores[0] and predict.classes == tuple('abcdef')
    threshold = float(result.scores[2])
    (fewer,) = predict(image, threshold=threshold)
    assert np.array_equal(fewer.boxes, result.boxes[result.scores >= threshold])
    (none,) = predict(image, threshold=1.0)
    assert none.boxes.shape == (0, 4) and none.best_score == result.best_score
    assert none.to_dict() == dict(predictions=[])


def test_batches_of_different_images_are_as_single_ones(cfg, model, image, tmp_path):
    """Also where the test keeps proportions, so that the model sees several sizes."""
    cfg = Config(cfg.to_dict())
    cfg.test_dataloader.dataset.pipeline[1].keep_ratio = True
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    predict = Predictor(cfg, tmp_path / 'a.pth')
    images = [image, image[:60], image[:, ::-1], image[20:80], np.rot90(image)]
    together = list(predict(images, batch_size=4, threshold=0))
    assert len(together) == 5
    for result, each in zip(together, images, strict=True):
        (alone,) = predict(each, threshold=0)
        assert len(alone.boxes) > 5 and np.array_equal(result.labels, alone.labels)
        assert np.allclose(result.scores, alone.scores, atol=1e-5)
        assert np.allclose(result.boxes, alone.boxes, atol=1e-2)


def test_every_kind_of_picture(predict, image, tmp_path, capsys):
    """Alone, in lists and from iterators; a picture that lies on its side stands upright."""
    folder = tmp_path / 'folder'
    (folder / 'deep').mkdir(parents=True)
    Image.fromarray(image).save(folder / 'deep' / 'a.png')
    (folder / 'b.jpg').write_text('no image')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(image).copy()).save(tmp_path / 'turned.png', exif=exif)
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(str(tmp_path / 'a.avi'), codec, 5, (200, 90))
    for _ in range(2):
        video.write(image[..., ::-1])
    video.release()
    pictures = [
        *(folder, str(tmp_path / 'turned.png'), image),
        *(Image.open(tmp_path / 'turned.png'), tmp_path / 'a.avi'),
    ]
    for given in (pictures, iter(pictures)):
        results = list(predict(given, batch_size=2, progress=True))
        assert [each.path and each.path.as_posix() for each in results] == [
            *('deep/a.png', 'turned.png', None, None, 'a.avi', 'a.avi')
        ]
        assert [each.frame for each in results] == [None] * 4 + [0, 1]
        assert all(np.array_equal(each.image, image) for each in results[:4])
        assert np.abs(results[4].image.astype(int) - image).mean() < 12  # JPEG
        assert predict.unreadable == {folder / 'b.jpg': 'damaged or not an image'}
    said = capsys.readouterr().err
    assert '6/7' in said and 'completed: 6' in said
    assert next(predict(folder)).path == Path('deep/a.png')


def test_page_on_python(checkpoint, image, tmp_path, monkeypatch, capsys):
    """What the page shows, with a checkpoint in place of its ONNX file."""
    monkeypatch.chdir(tmp_path)
    Path('folder').mkdir()
    for name in ('a.jpg', 'folder/b.png'):
        Image.fromarray(image).save(name)
    video = cv2.VideoWriter('video.mp4', cv2.VideoWriter_fourcc(*'mp4v'), 5, (200, 90))
    video.write(image)
    video.release()
    section = (ROOT / 'docs' / 'python-api.md').read_text().split('## Predict')[1]
    block = textwrap.dedent(re.search(r'(?:^    .*\n|^\n(?=    ))+', section, re.MULTILINE)[0])
    names = dict(pil_image=Image.fromarray(image), rgb_array=image)
    exec(block.replace('shipped/detector.onnx', str(checkpoint)), names)
    said = capsys.readouterr().out.splitlines()
    files = [line.split()[0] for line in said if line.startswith(('a.jpg', 'b.', 'None', 'video'))]
    assert files == ['a.jpg', 'b.png', 'None', 'None', 'video.mp4']
    assert cv2.imread('drawn.jpg').shape == (270, 600, 3)


def test_what_is_no_picture_is_refused(predict, image, tmp_path):
    (tmp_path / 'a.jpg').write_text('no image')
    for pictures, reason in (
        ([image, 3], 'neither a path nor a PIL image nor an RGB array: 3'),
        (image[..., 0], r'an array is \(H, W, 3\) of uint8'),
        (Image.fromarray(image[..., 0].astype(np.float32)), 'pixels of mode F'),
        ([image, 'no.jpg'], 'no.jpg does not exist'),
    ):
        with pytest.raises(InputError, match=reason):
            predict(pictures)
    with pytest.raises(InputError, match=r'none of the 1 images can be read \(.*a.jpg: damaged'):
        list(predict(tmp_path / 'a.jpg'))
    with pytest.raises(InputError, match='batch_size is at least 1, not 0'):
        predict(image, batch_size=0)


def test_what_a_predictor_is_not_made_of(cfg, checkpoint, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'bare.pth')
    for files, reason in (
        ((tmp_path / 'bare.pth',), r'holds no config, .*Predictor\(config, checkpoint\)'),
        ((CONFIG,), 'a config needs its checkpoint'),
        ((cfg,), 'a config needs its checkpoint'),
        ((CONFIG, 'a.onnx'), 'an .onnx file takes no config'),
        (('no.onnx',), 'no.onnx does not exist'),
        (('no.pth',), 'no.pth does not exist'),
    ):
        with pytest.raises(InputError, match=reason):
            Predictor(*files)
    assert Predictor(CONFIG, tmp_path / 'bare.pth').classes == CLASSES


def test_image_demo_draws_counts_and_skips(checkpoint, image, expected, tmp_path, call, capsys):
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    cv2.imwrite(str(source / 'a.png'), image[..., ::-1])
    (source / 'b.jpg').write_text('not an image')
    score_thr = float(expected.scores[:2].mean())
    options = dict(checkpoint=checkpoint, out_dir=out, score_thr=score_thr)
    words = [f'--{name.replace("_", "-")}={value}' for name, value in options.items()]
    said = f'drawn: 1 of 2, boxes: 1, left out: 1 (b.jpg: damaged or not an image); see {out}\n'
    assert call('image_demo', source, *words) == said
    progress = capsys.readouterr().err
    assert '1/2' in progress and 'ETA' in progress
    (found,) = json.loads((out / 'predictions.json').read_text())
    assert found['file'] == 'a.png'
    scores = [each['score'] for each in found['predictions']]
    assert np.allclose(scores, expected.scores[:1], atol=1e-4)
    assert cv2.imread(str(out / 'a.png')).shape == (90 * 3, 200 * 3, 3)
    said = call('image_demo', source, *words[:2], '--score-thr=1', f'--config={CONFIG}')
    assert f'boxes: 0 (best score: {expected.scores[0]:.3f}, --score-thr: 1.0), left out' in said
