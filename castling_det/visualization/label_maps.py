"""Label maps laid over their images, with a legend, and the hook that writes them in a test."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.registry import HOOKS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from numpy import ndarray

_LINE, _SWATCH, _COLUMN = 18, 12, 130  # pixels of the legend; the column is its least width
_FACE, _SCALE, _THICKNESS = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1


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
        palette: Sequence[Sequence[int]],
        with_labels: bool = True,
    ) -> ndarray:
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
            entries = [
                (f'{classes[label]} {share:.0%}', palette[label])
                for label, share in zip(present, shares, strict=True)
            ]
            picture = np.hstack([picture, _legend(entries, len(picture))])
        self.set_image(picture)
        return picture


def _legend(entries: list[tuple[str, Sequence[int]]], height: int) -> ndarray:
    """Names and colours in as many columns as they need: ``(height, W, 3)``, RGB."""
    lines = max(1, height // _LINE)
    columns = max(1, math.ceil(len(entries) / lines))
    texts = (cv2.getTextSize(name, _FACE, _SCALE, _THICKNESS)[0][0] for name, _ in entries)
    column = max((_COLUMN, *(_SWATCH + text + 12 for text in texts)))
    legend = np.full((height, columns * column, 3), 255, np.uint8)
    for index, (name, color) in enumerate(entries):
        x, y = index // lines * column + 4, index % lines * _LINE + 3
        corner = (x + _SWATCH, y + _SWATCH)
        cv2.rectangle(legend, (x, y), corner, [int(value) for value in color], cv2.FILLED)
        cv2.rectangle(legend, (x, y), corner, (0, 0, 0))
        place = (corner[0] + 4, corner[1] - 2)
        cv2.putText(legend, name, place, _FACE, _SCALE, (0, 0, 0), _THICKNESS, cv2.LINE_AA)
    return legend


@HOOKS.register_module()
class OverlayHook(SegVisualizationHook):
    """mmseg's visualization hook with ``test_out_dir``, as mmdet's has it.

    ``after_test_iter`` differs: the pictures, ground truth left and prediction right, go to that
    folder under the names of the images, and not to the visualizer's backends.

    Args:
        draw (bool): Whether to draw at all. Defaults to False.
        interval (int): In validation every so many iterations one picture goes to the visualizer's
            backends. Defaults to 50.
        test_out_dir (str, optional): Folder for the pictures of a test; without one they go to the
            backends.
    """

    def __init__(
        self, draw: bool = False, interval: int = 50, test_out_dir: str | None = None
    ) -> None:
        super().__init__(draw=draw, interval=interval)
        self.test_out_dir = test_out_dir

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[SegDataSample],
    ) -> None:
        if not self.draw or self.test_out_dir is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        for sample in outputs:
            self._visualizer.add_datasample(
                'test',
                mmcv.imread(sample.img_path, channel_order='rgb'),
                data_sample=sample,
                out_file=str(Path(self.test_out_dir) / Path(sample.img_path).name),
            )
