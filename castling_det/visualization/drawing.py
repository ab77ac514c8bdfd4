"""Samples of any task drawn on their images, and the files that pictures and label maps become."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from numpy import ndarray
from PIL import Image

from castling_det.checkpoint import atomic_write
from castling_det.errors import InputError
from castling_det.visualization.boxes import LegibleVisualizer


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
    visualizer: Visualizer, image: ndarray, sample: BaseDataElement, truth: bool = False
) -> ndarray:
    """Draw the predictions of a sample, or its ground truth, on its image.

    Args:
        visualizer (Visualizer): As of :func:`visualizer_for`.
        image (ndarray): ``(H, W, 3)``, uint8, RGB.
        sample (BaseDataElement): Boxes in pixels of ``image``, a label map of its size, or its
            class.
        truth (bool): The ground truth in place of the predictions. Defaults to False.

    Returns:
        ndarray: As ``image``, or larger by a whole number; label maps have a legend to the right.
    """
    options = dict(draw_gt=truth, draw_pred=not truth)
    if isinstance(sample, DetDataSample):
        options['pred_score_thr'] = 0
    visualizer.add_datasample('picture', image, sample, **options)
    return np.ascontiguousarray(visualizer._image)


def write_picture(path: Path, picture: ndarray) -> None:
    """Write an RGB picture in the format of the suffix, whole or not at all.

    Raises:
        InputError: If that is none that OpenCV writes.
    """
    if not (path.suffix and cv2.haveImageWriter(path.name)):
        raise InputError(f'{path}: {path.suffix or "no suffix"} is no format of pictures')
    _, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(picture[..., ::-1]))
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
