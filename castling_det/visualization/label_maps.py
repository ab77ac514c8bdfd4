"""Label maps laid over their images, with a legend. Needs mmseg."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.registry import VISUALIZERS
from mmengine.structures import PixelData
from mmseg.visualization import SegLocalVisualizer
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from castling_det.visualization.palette import palette_of
from castling_det.visualization.text import PLAIN, font_of, legible

# Pixels of the legend; the column is its least width, the last the size of letters.
_LINE, _SWATCH, _COLUMN, _SIZE = 18, 12, 130, 12


@VISUALIZERS.register_module()
class LegendVisualizer(SegLocalVisualizer):
    """mmseg's visualizer with the names in a legend beside the picture.

    ``_draw_sem_seg`` differs: the parent writes each name on the picture itself, where they cover
    one another, and blackens what has no label. Here that stays as it is in the image, and small
    images are drawn larger. The largest class stands first.

    Args:
        least_size (int): Images whose sqrt(height x width) is below it, in pixels, are drawn
            larger, by a whole number. Defaults to 400.
        alpha (float): Opacity of the labels. Defaults to 0.6.
        vis_backends (list[dict], optional): As the parent's.
        name (str): As the parent's.
        save_dir (str, optional): As the parent's.
    """

    def __init__(
        self,
        least_size: int = 400,
        alpha: float = 0.6,
        vis_backends: list[dict] | None = None,
        name: str = 'visualizer',
        save_dir: str | None = None,
    ) -> None:
        super().__init__(name=name, vis_backends=vis_backends, save_dir=save_dir, alpha=alpha)
        self.least_size = least_size

    def _draw_sem_seg(
        self,
        image: ndarray,
        sem_seg: PixelData,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]] | None,
        with_labels: bool = True,
    ) -> ndarray:
        palette = palette_of(dict(classes=classes, palette=palette))
        labels = np.asarray(sem_seg.data.cpu())[0]
        present, counts = np.unique(labels[labels < len(classes)], return_counts=True)
        present = present[np.argsort(-counts, kind='stable')]
        shares = np.sort(counts)[::-1] / labels.size
        picture = image.copy()
        for label in present:
            there = labels == label
            color = np.array(palette[label])
            picture[there] = (1 - self.alpha) * picture[there] + self.alpha * color
        scale = max(1, math.ceil(self.least_size / math.sqrt(labels.size)))
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        if with_labels:
            names = legible(tuple(classes))
            entries = [
                (f'{names[label]} {share:.0%}', palette[label])
                for label, share in zip(present, shares, strict=True)
            ]
            picture = np.hstack([picture, _legend(entries, len(picture))])
        self.set_image(picture)
        return picture


def _legend(entries: list[tuple[str, Sequence[int]]], height: int) -> ndarray:
    """Names and colours in as many columns as they need: ``(height, W, 3)``, RGB."""
    lines = max(1, height // _LINE)
    columns = max(1, math.ceil(len(entries) / lines))
    fonts = [ImageFont.truetype(font_of(text) or PLAIN, _SIZE) for text, _ in entries]
    texts = (
        math.ceil(font.getlength(text)) for font, (text, _) in zip(fonts, entries, strict=True)
    )
    column = max((_COLUMN, *(_SWATCH + text + 12 for text in texts)))
    legend = Image.new('RGB', (columns * column, height), 'white')
    pen = ImageDraw.Draw(legend)
    for index, (font, (text, color)) in enumerate(zip(fonts, entries, strict=True)):
        x, y = index // lines * column + 4, index % lines * _LINE + 3
        corner = (x + _SWATCH, y + _SWATCH)
        pen.rectangle(((x, y), corner), fill=tuple(map(int, color)), outline='black')
        pen.text((corner[0] + 4, corner[1] - 2), text, fill='black', font=font, anchor='ls')
    return np.asarray(legend)
