"""What a file of a model says of itself, so that it needs no config beside it."""

from pathlib import Path
from typing import Any

from mmdet.utils import get_test_pipeline_cfg
from mmdet.visualization import get_palette
from mmengine.config import Config, ConfigDict
from torch import nn

import castling_det
from castling_det.configs import input_shape, task_of, type_name
from castling_det.errors import InputError
from castling_det.inference.predictor import TrainedModel
from castling_det.provenance import source_commit

# How far files go, by task; the first is what one gets without asking.
DECODES = dict(detection=('boxes', 'nms', 'raw'), segmentation=('labels', 'raw'))
INTERPOLATIONS = ('bilinear', 'bicubic')


def describe(
    trained: TrainedModel, decode: str | None, half: bool, shape: tuple[int, int] | None
) -> dict[str, Any]:
    """Collect it, as json can hold it.

    Args:
        trained (TrainedModel): With its whole config.
        decode (str, optional): Of ``DECODES``, how far the file goes; the first if None.
        half (bool): Whether its network is in float16.
        shape (tuple[int, int], optional): Height and width that images are resized to. Defaults to
            the test pipeline's.

    Raises:
        InputError: If the runtime could not do what the config's test does.
    """
    task = task_of(trained.model.cfg)
    decode = decode or DECODES[task][0]
    if decode not in DECODES[task]:
        raise InputError(f'decode of {task} is one of {", ".join(DECODES[task])}, not {decode!r}')
    cfg, preprocessor = trained.model.cfg, trained.model.data_preprocessor
    classes = list(trained.dataset_meta['classes'])
    palette = get_palette(trained.dataset_meta.get('palette'), len(classes))
    resize = _resize(cfg)
    most_sides = None if shape else _most_sides(resize)
    described = dict(
        task=task,
        classes=classes,
        palette=[[int(channel) for channel in colour] for colour in palette],
        decode=decode,
        precision='fp16' if half else 'fp32',
        input_size=list(shape or most_sides or input_shape(cfg)),
        most_sides=most_sides,
        interpolation=resize.get('interpolation', 'bilinear'),
        input_layout='RGB, 0 to 255, float32; normalised and padded in the graph',
        mean=preprocessor.mean.flatten().tolist(),
        std=preprocessor.std.flatten().tolist(),
        pad_size_divisor=_pad_size_divisor(preprocessor),
        config=Path(cfg.filename).name,
        version=castling_det.__version__,
        commit=source_commit(),
    )
    if task == 'segmentation':
        if trained.model.decode_head.align_corners:
            raise InputError('run_onnx.py interpolates logits as with align_corners=False')
        return described
    return described | _suppression(trained.model.test_cfg)


def _pad_size_divisor(preprocessor: nn.Module) -> int:
    """In a test, for which mmseg's has a config of its own."""
    if hasattr(preprocessor, 'test_cfg'):
        return (preprocessor.test_cfg or {}).get('size_divisor', 1)
    return preprocessor.pad_size_divisor


def _suppression(test_cfg: ConfigDict) -> dict[str, float]:
    """Of boxes."""
    nms = test_cfg.get('nms')
    if nms is None or nms.get('type', 'nms') != 'nms' or nms.get('class_agnostic', False):
        raise InputError(f'files know class-wise greedy NMS, but the config has {nms}')
    return dict(
        score_thr=test_cfg.score_thr,
        iou_threshold=nms.iou_threshold,
        max_per_img=test_cfg.max_per_img,
    )


def _resize(cfg: Config) -> dict:
    """The one step by which the config's test changes an image."""
    steps = get_test_pipeline_cfg(cfg)
    names = [type_name(step) for step in steps]
    changing = [
        step
        for step, name in zip(steps, names, strict=True)
        if not name.startswith(('Load', 'Pack'))
    ]
    if (
        names.count('Resize') != 1
        or len(changing) != 1
        or 'scale' not in changing[0]
        or changing[0].get('interpolation', 'bilinear') not in INTERPOLATIONS
        or changing[0].get('backend', 'cv2') != 'cv2'
    ):
        raise InputError(
            f'{cfg.filename}: run_onnx.py prepares images by one Resize to a scale, as '
            f'OpenCV does it, {" or ".join(INTERPOLATIONS)}, but test_dataloader.dataset.pipeline '
            f'has {changing}'
        )
    return changing[0]


def _most_sides(resize: dict) -> list[int] | None:
    """Where an image keeps its proportions: how long its shorter and its longer side may be."""
    if not resize.get('keep_ratio'):
        return None
    scale = resize['scale']
    return sorted((scale, scale) if isinstance(scale, int) else scale)
