"""What a file of a model says of itself, so that it needs no config beside it."""

from pathlib import Path
from typing import Any

from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config, ConfigDict
from torch import nn

import castling_det
from castling_det.configs import input_shape, task_of, type_name
from castling_det.errors import InputError
from castling_det.export.graph import DECODES, normalisation
from castling_det.inference.trained_model import TrainedModel
from castling_det.provenance import source_commit

INTERPOLATIONS = ('bilinear', 'bicubic')
BACKENDS = ('cv2', 'pillow')  # mmcv's names of the libraries that resize


def decode_of(trained: TrainedModel, decode: str | None) -> str:
    """How far the file of a model goes, which must be one of its task's ``DECODES``.

    Args:
        trained (TrainedModel): With its whole config.
        decode (str, optional): What is asked for. Defaults to the task's first; logits of a
            segmentor in sliding windows, as those are what is averaged.

    Raises:
        InputError: If files of this model do not go so far.
    """
    task, possible = task_of(trained.model.cfg), DECODES[task_of(trained.model.cfg)]
    if task == 'segmentation' and trained.model.test_cfg.mode == 'slide':
        task, possible = 'segmentation in sliding windows', ('raw',)
    if decode not in (None, *possible):
        raise InputError(f'decode of {task} is one of {", ".join(possible)}, not {decode!r}')
    return decode or possible[0]


def describe(
    trained: TrainedModel, decode: str, precision: str, shape: tuple[int, int] | None
) -> dict[str, Any]:
    """Collect it, as json can hold it.

    Args:
        trained (TrainedModel): With its whole config.
        decode (str): See :func:`decode_of`.
        precision (str): Of its network, 'fp32', 'fp16' or 'int8'.
        shape (tuple[int, int], optional): Height and width that images are resized to, or that are
            cut out of them, which then are larger in proportion. Defaults to the test pipeline's.

    Raises:
        InputError: If the runtime could not do what the config's test does.
    """
    task = task_of(trained.model.cfg)
    cfg, preprocessor = trained.model.cfg, trained.model.data_preprocessor
    takes_rgb, mean, std = normalisation(preprocessor)
    described = dict(
        task=task,
        classes=list(trained.classes),
        palette=[[int(channel) for channel in colour] for colour in trained.palette],
        decode=decode,
        precision=precision,
        **_resizing(cfg, shape),
        input_layout='RGB, 0 to 255, float32; normalised and padded in the graph',
        mean=mean if takes_rgb else mean[::-1],
        std=std if takes_rgb else std[::-1],
        pad_size_divisor=_pad_size_divisor(preprocessor),
        config=Path(cfg.filename).name,
        version=castling_det.__version__,
        commit=source_commit(),
    )
    if task == 'detection':
        return described | _suppression(trained.model.test_cfg, decode)
    if task == 'segmentation':
        return described | _windows(trained.model)
    return described


def _windows(segmentor: nn.Module) -> dict[str, Any]:
    """The sliding windows of a segmentor, if its test takes them.

    Returns:
        dict: ``window`` and ``stride``, each height and width, or None; and ``pad_colour``, R, G, B
        of what an image is padded with to a multiple of ``pad_size_divisor`` before.
    """
    if segmentor.decode_head.align_corners:
        raise InputError('run_onnx.py interpolates logits as with align_corners=False')
    test_cfg, preprocessor = segmentor.test_cfg, segmentor.data_preprocessor
    if test_cfg.mode == 'whole':
        return dict(window=None, stride=None, pad_colour=None)
    divisor, window = _pad_size_divisor(preprocessor), list(test_cfg.crop_size)
    if any(side % divisor for side in window):
        raise InputError(
            f'windows are cut out of an image padded to multiples of {divisor} px: let both sides '
            f'of model.test_cfg.crop_size {window} be such'
        )
    takes_rgb, mean, std = normalisation(preprocessor)
    colour = [m + preprocessor.pad_val * s for m, s in zip(mean, std, strict=True)]
    return dict(
        window=window,
        stride=list(test_cfg.stride),
        pad_colour=colour if takes_rgb else colour[::-1],
    )


def _pad_size_divisor(preprocessor: nn.Module) -> int:
    """In a test, for which mmseg's has a config of its own."""
    if hasattr(preprocessor, 'test_cfg'):
        return (preprocessor.test_cfg or {}).get('size_divisor', 1)
    return preprocessor.pad_size_divisor


def _suppression(test_cfg: ConfigDict, decode: str) -> dict[str, float | None]:
    """Of boxes; YOLOX keeps any number of them."""
    nms, most = test_cfg.get('nms'), test_cfg.get('max_per_img')
    if nms is None or nms.get('type', 'nms') != 'nms' or nms.get('class_agnostic', False):
        raise InputError(f'files know class-wise greedy NMS, but the config has {nms}')
    if test_cfg.get('min_bbox_size', 0) > 0:
        raise InputError('files know no model.test_cfg.min_bbox_size but 0')
    if decode == 'nms' and most is None:
        raise InputError(
            'NMS in a file has room for a number of boxes: pass --cfg-options '
            'model.test_cfg.max_per_img=300'
        )
    return dict(score_thr=test_cfg.score_thr, iou_threshold=nms.iou_threshold, max_per_img=most)


def _resizing(cfg: Config, shape: tuple[int, int] | None) -> dict[str, Any]:
    """How the config's test brings an image to the size that the model sees.

    Returns:
        dict: ``input_size``, height and width; ``most_sides``, where an image keeps its
        proportions, how long its shorter and its longer side may be; ``short_side``, where the
        centre is cut out of an image, how long its shorter side is before; ``pad_size``, height and
        width that it is padded to, and ``pad_value``; ``interpolation``, and ``backend``, the
        library whose numbers they are.
    """
    steps = [
        step
        for step in get_test_pipeline_cfg(cfg)
        if not type_name(step).startswith(('Load', 'Pack'))
    ]
    names = [type_name(step) for step in steps]
    resize = steps[0] if steps else {}
    pads = names == ['Resize', 'Pad'] and task_of(cfg) == 'detection'
    known = (names == ['Resize'] or pads) and 'scale' in resize
    known |= names == ['ResizeEdge', 'CenterCrop'] and resize.get('edge', 'short') == 'short'
    interpolation, backend = resize.get('interpolation', 'bilinear'), resize.get('backend', 'cv2')
    if not known or interpolation not in INTERPOLATIONS or backend not in BACKENDS:
        raise InputError(
            f'{cfg.filename}: run_onnx.py prepares images by one Resize to a scale, with a Pad or '
            'without, or by one ResizeEdge of the short side and a CenterCrop, '
            f'{" or ".join(INTERPOLATIONS)}, by {" or ".join(BACKENDS)}, but '
            f'test_dataloader.dataset.pipeline has {steps}'
        )
    most_sides = short_side = pad_size = pad_value = None
    if names[0] == 'ResizeEdge':
        cut = max(input_shape(cfg))
        short_side = round(resize['scale'] * max(shape) / cut) if shape else resize['scale']
        if resize['scale'] < cut:
            raise InputError(f'{cfg.filename}: CenterCrop is larger than what ResizeEdge gives')
    elif shape is None and resize.get('keep_ratio'):
        scale = resize['scale']
        most_sides = sorted((scale, scale) if isinstance(scale, int) else scale)
    if pads and shape is None:
        pad_size, pad_value = list(input_shape(cfg)), _pad_value(cfg, steps[1])
        _require_known_sides(cfg, steps, pad_size, most_sides)
    return dict(
        input_size=list(shape or pad_size or most_sides or input_shape(cfg)),
        most_sides=most_sides,
        short_side=short_side,
        pad_size=pad_size,
        pad_value=pad_value,
        interpolation=interpolation,
        backend=backend,
    )


def _require_known_sides(
    cfg: Config, steps: list[dict], pad_size: list[int], most_sides: list[int] | None
) -> None:
    """An image is filled up to one size, whatever it was: the square of its sides is none."""
    if most_sides is None:
        scale = steps[0]['scale']
        is_known = list((scale, scale) if isinstance(scale, int) else scale) == pad_size[::-1]
    else:
        is_known = 'size' in steps[1] or most_sides[0] == most_sides[1]
    if not is_known:
        raise InputError(
            f'{cfg.filename}: run_onnx.py pads images that a Resize with keep_ratio=True has '
            'brought to a scale, to a size or to the square of a scale of two equal sides, but '
            f'test_dataloader.dataset.pipeline has {steps}'
        )


def _pad_value(cfg: Config, pad: dict[str, Any]) -> float:
    """Of the pixels that a test's Pad adds to the right and bottom of an image."""
    value = pad.get('pad_val', 0)
    values = value.get('img', 0) if isinstance(value, dict) else value
    values = {values} if isinstance(values, int | float) else set(values)
    is_known = pad.get('size_divisor') is None and pad.get('padding_mode', 'constant') == 'constant'
    if not is_known or len(values) > 1:
        raise InputError(
            f'{cfg.filename}: run_onnx.py pads to a size, or to a square, by one number, but '
            f'test_dataloader.dataset.pipeline has {pad}'
        )
    return float(values.pop())
