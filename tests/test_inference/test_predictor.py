"""Detectors and segmentors as functions of an image; mmdet's own inferencer with our configs."""

import json
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
from torch.nn import functional as F

from castling_det.datasets import CLASSES
from castling_det.inference.frames import Frame
from castling_det.inference.predictor import TrainedModel, records

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
def checkpoint(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('checkpoint') / 'nano.pth'
    meta = dict(dataset_meta=dict(classes=[*'abcdef']))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='module')
def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, (200, 90), interpolation=cv2.INTER_CUBIC)


def normalised(cfg: Config, resized: np.ndarray) -> torch.Tensor:
    inputs = torch.from_numpy(resized[..., ::-1].transpose(2, 0, 1).copy()).float()[None]
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
    found = TrainedModel(cfg, checkpoint)(image).pred_instances
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert torch.allclose(found.bboxes, expected.bboxes, atol=1e-2)


def test_mmdet_inferencer_predicts_what_the_model_does(checkpoint, image, expected):
    inferencer = DetInferencer(str(CONFIG), str(checkpoint), device='cpu', show_progress=False)
    (found,) = inferencer(image)['predictions']
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
    assert predict.dataset_meta['classes'][3] == 'Road'
    found = predict(image).pred_sem_seg.data
    assert found.shape == expected.shape == (1, *image.shape[:2])
    assert (found == expected).float().mean() > 0.999


def test_names_are_the_checkpoints_or_else_the_configs(cfg, model, checkpoint, tmp_path):
    assert TrainedModel(cfg, checkpoint).dataset_meta['classes'] == [*'abcdef']
    torch.save(model.state_dict(), tmp_path / 'bare.pth')
    assert TrainedModel(cfg, tmp_path / 'bare.pth').dataset_meta['classes'] == CLASSES


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


def test_records_can_be_written_as_json():
    instances = InstanceData(
        bboxes=torch.tensor([[1.0, 2.126, 3.0, 4.0]]),
        scores=torch.tensor([0.98766]),
        labels=torch.tensor([1]),
    )
    sample = DetDataSample(pred_instances=instances)
    box = dict(bbox_xyxy=[1.0, 2.13, 3.0, 4.0], score=0.9877, label='dog')
    classes = ('cat', 'dog')
    picture = Frame(Path('sub/a.jpg'), None, np.zeros((4, 4, 3), np.uint8))
    assert records(picture, sample, classes) == [dict(file='sub/a.jpg', **box)]
    frame = Frame(Path('a.mp4'), 7, np.zeros((4, 4, 3), np.uint8))
    assert records(frame, sample, classes) == [dict(file='a.mp4', frame=7, **box)]


def test_image_demo_draws_counts_and_skips(checkpoint, image, expected, tmp_path, call, capsys):
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    cv2.imwrite(str(source / 'a.png'), image)
    (source / 'b.jpg').write_text('not an image')
    score_thr = float(expected.scores[:2].mean())
    options = dict(config=CONFIG, checkpoint=checkpoint, out_dir=out, score_thr=score_thr)
    words = [f'--{name.replace("_", "-")}={value}' for name, value in options.items()]
    said = f'drawn: 1 of 2, boxes: 1, left out: 1 (b.jpg: damaged or not an image); see {out}\n'
    assert call('image_demo', source, *words) == said
    progress = capsys.readouterr().err
    assert '1/2' in progress and 'ETA' in progress
    found = json.loads((out / 'predictions.json').read_text())
    assert np.allclose([each['score'] for each in found], expected.scores[:1], atol=1e-4)
    assert cv2.imread(str(out / 'a.png')).shape == (90 * 3, 200 * 3, 3)
