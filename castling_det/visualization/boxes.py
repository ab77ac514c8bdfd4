"""Boxes, and masks, on images. Needs mmdet."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from castling_det.inference.run_onnx import place_labels
from castling_det.visualization.palette import Color, palette_of
from castling_det.visualization.text import PLAIN, font_of, legible

_LEAST_LETTERS = 12  # their size in pixels
_LETTERS = 1 / 40  # and in sqrt(height x width) of a large image
_PAD = 1  # pixels around the letters


@VISUALIZERS.register_module()
class LegibleVisualizer(DetLocalVisualizer):
    """mmdet's visualizer for images of any size, and for crowded ones.

    ``_draw_instances`` differs: labels do not cover one another, and the one that finds no free
    place beside or in its box is left out, those of low scores first; boxes end within the image;
    small images are drawn larger, since the text is not smaller on them; names are written in a
    font that has their letters; and colours are those of :func:`palette_of`.

    Args:
        least_size (int): Images whose sqrt(height x width) is below it, in pixels, are drawn
            larger, by a whole number. Defaults to 400.
        alpha (float): Opacity of masks. Defaults to 0.5.
        vis_backends (list[dict], optional): As the parent's.
        name (str): As the parent's.
        save_dir (str, optional): As the parent's.
    """

    def __init__(
        self,
        least_size: int = 400,
        alpha: float = 0.5,
        vis_backends: list[dict] | None = None,
        name: str = 'visualizer',
        save_dir: str | None = None,
    ) -> None:
        super().__init__(name=name, vis_backends=vis_backends, save_dir=save_dir, alpha=alpha)
        self.least_size = least_size

    def _draw_instances(
        self,
        image: ndarray,
        instances: InstanceData,
        classes: Sequence[str],
        palette: list[tuple] | None,
    ) -> ndarray:
        height, width = image.shape[:2]
        scale = max(1, math.ceil(self.least_size / math.sqrt(height * width)))
        colors = palette_of(dict(classes=classes, palette=palette))
        names = legible(tuple(classes))
        labels = instances.labels.tolist()
        masked = image.copy()
        for mask, label in zip(_masks(instances), labels, strict=False):
            masked[mask] = (1 - self.alpha) * masked[mask] + self.alpha * np.array(colors[label])
        masked = cv2.resize(masked, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        texts = [names[label] for label in labels]
        if 'scores' in instances:
            scores = instances.scores.tolist()
            texts = [f'{text} {score:.2f}' for text, score in zip(texts, scores, strict=True)]
        limits = np.array([width, height, width, height]) * scale - 1
        boxes = _boxes(instances) * scale
        boxes = np.minimum(np.maximum(boxes, 0), limits)
        boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
        picture = _write(masked, boxes, texts, [colors[label] for label in labels])
        self.set_image(picture)
        return picture


def _boxes(instances: InstanceData) -> ndarray:
    """Of all, or of masks alone, which some detectors give: ``(n, 4)``, float32."""
    boxes = get_box_tensor(instances.bboxes) if 'bboxes' in instances else None
    if boxes is not None and (boxes.any() or 'masks' not in instances):
        return boxes.numpy().reshape(-1, 4)
    around = [cv2.boundingRect(mask.astype(np.uint8)) for mask in _masks(instances)]
    return np.array([(x, y, x + w, y + h) for x, y, w, h in around]).reshape(-1, 4)


def _masks(instances: InstanceData) -> ndarray:
    """``(n, H, W)``, bool; none where there are boxes alone."""
    masks = instances.get('masks', ())
    if isinstance(masks, BitmapMasks | PolygonMasks):
        masks = masks.to_ndarray()
    elif isinstance(masks, Tensor):
        masks = masks.numpy()
    return np.asarray(masks, dtype=bool)


def _write(image: ndarray, boxes: ndarray, texts: list[str], colors: list[Color]) -> ndarray:
    """Boxes with their labels on an RGB image, the first on top."""
    size = max(_LEAST_LETTERS, round(_LETTERS * math.sqrt(image.shape[0] * image.shape[1])))
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    for box, color in reversed(list(zip(boxes.tolist(), colors, strict=True))):
        pen.rectangle(box, outline=color, width=max(2, size // 6))
    fonts = [ImageFont.truetype(font_of(text) or PLAIN, size) for text in texts]
    extents = [font.getbbox(text) for font, text in zip(fonts, texts, strict=True)]
    sizes = [(right + 2 * _PAD, bottom + 2 * _PAD) for _, _, right, bottom in extents]
    places = place_labels(boxes.tolist(), sizes, image.shape[:2])
    for place, (w, h), text, font, color in zip(places, sizes, texts, fonts, colors, strict=True):
        if place is not None:
            x, y = place
            pen.rectangle((x, y, x + w - 1, y + h - 1), fill=color)
            fill = 'black' if np.dot(color, (0.299, 0.587, 0.114)) > 128 else 'white'
            pen.text((x + _PAD, y + _PAD), text, fill=fill, font=font)
    return np.asarray(picture)
