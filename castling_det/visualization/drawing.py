"""Samples of any task drawn on their images, and the files that pictures and label maps become."""

import math
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from castling_det.errors import InputError
from castling_det.output_files import atomic_write
from castling_det.visualization.boxes import LegibleVisualizer
from castling_det.visualization.text import PLAIN

_CAPTION = 20  # its height in pixels
_JPEG_LIMIT = 65_500  # pixels of a side


def visualizer_for(sample: BaseDataElement, dataset_meta: dict[str, Any]) -> Visualizer:
    """The visualizer that draws a sample: boxes, a label map with a legend, or names of classes.

    Only the library of the sample is imported.
    """
    if isinstance(sample, DetDataSample):
        visualizer = LegibleVisualizer()
    elif 'gt_sem_seg' in sample or 'pred_sem_seg' in sample:
        from castling_det.visualization.label_maps import LegendVisualizer

        visualizer = LegendVisualizer()
    else:
        from castling_det.visualization.classes import ClassVisualizer

        visualizer = ClassVisualizer()
    visualizer.dataset_meta = dataset_meta
    return visualizer


def draw(
    visualizer: Visualizer,
    image: ndarray,
    sample: BaseDataElement,
    truth: bool = False,
    threshold: float = 0.0,
) -> ndarray:
    """Draw the predictions of a sample, or its ground truth, on its image.

    Args:
        visualizer (Visualizer): As of :func:`visualizer_for`.
        image (ndarray): ``(H, W, 3)``, uint8, RGB.
        sample (BaseDataElement): Boxes in pixels of ``image``, a label map of its size, or its
            class.
        truth (bool): The ground truth in place of the predictions. Defaults to False.
        threshold (float): Least score of the boxes that are predicted. Defaults to 0.

    Returns:
        ndarray: As ``image``, or larger by a whole number; label maps have a legend to the right.
    """
    options = dict(draw_gt=truth, draw_pred=not truth)
    if isinstance(sample, DetDataSample):
        options['pred_score_thr'] = threshold
    visualizer.add_datasample('picture', image, sample, **options)
    return np.ascontiguousarray(visualizer._image)


def truth_above_prediction(
    sample: BaseDataElement, dataset_meta: dict[str, Any], threshold: float
) -> ndarray:
    """Draw a sample on its image file twice; of a class, truth and prediction on one image.

    Args:
        sample (BaseDataElement): With its ``img_path``, as a test loop has it.
        dataset_meta (dict): ``classes`` and, perhaps, ``palette``.
        threshold (float): Least score of the boxes that are predicted.

    Returns:
        ndarray: ``(H, W, 3)``, uint8, RGB.
    """
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    if image.shape[:2] != sample.get('ori_shape', image.shape[:2]):  # loaded without EXIF's turn
        image = mmcv.imread(sample.img_path, 'color_ignore_orientation', channel_order='rgb')
    visualizer = visualizer_for(sample, dataset_meta)
    if not isinstance(sample, DetDataSample) and 'gt_sem_seg' not in sample:
        visualizer.add_datasample('picture', image, sample)
        return np.ascontiguousarray(visualizer._image)
    truth = draw(visualizer, image, sample, truth=True)
    prediction = draw(visualizer, image, sample, threshold=threshold)
    parts = [_caption('truth'), truth, _caption('prediction'), prediction]
    width = max(part.shape[1] for part in parts)
    padded = (
        np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255)
        for part in parts
    )
    return np.vstack(list(padded))


def _caption(text: str) -> ndarray:
    font = ImageFont.truetype(PLAIN, _CAPTION - 6)
    caption = Image.new('RGB', (math.ceil(font.getlength(text)) + 8, _CAPTION), 'white')
    ImageDraw.Draw(caption).text((4, _CAPTION // 2), text, fill='black', font=font, anchor='lm')
    return np.asarray(caption)


def write_picture(path: Path, picture: ndarray) -> None:
    """Write an RGB picture in the format of the suffix, whole or not at all.

    One that is too long for JPEG has every second pixel, or every third.

    Raises:
        InputError: If that is none that OpenCV writes.
    """
    if not (path.suffix and cv2.haveImageWriter(path.name)):
        raise InputError(f'{path}: {path.suffix or "no suffix"} is no format of pictures')
    step = math.ceil(max(picture.shape) / _JPEG_LIMIT) if path.suffix in ('.jpg', '.jpeg') else 1
    _, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(picture[::step, ::step, ::-1]))
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(encoded.tobytes())


def write_label_map(path: Path, labels: ndarray, palette: list[tuple]) -> None:
    """Write a label map as PNG with a palette, whole or not at all.

    Args:
        path (Path): With the suffix .png.
        labels (ndarray): ``(H, W)``, the class of each pixel, from 0.
        palette (list[tuple]): Colour of each class, red, green and blue.

    Raises:
        InputError: If there are more classes than numbers in an 8-bit file.
    """
    if len(palette) > 256:
        raise InputError(f'{path}: {len(palette)} classes do not fit into 8 bits a pixel')
    picture = Image.fromarray(labels.astype(np.uint8), mode='P')
    picture.putpalette(np.asarray(palette, np.uint8).tobytes())
    with atomic_write(path) as unfinished:
        picture.save(unfinished)
