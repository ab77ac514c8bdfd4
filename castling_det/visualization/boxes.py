"""Boxes on images. Needs mmdet."""

import math
from copy import copy

import cv2
import matplotlib
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData
from numpy import ndarray

from castling_det.visualization.text import families, legible


@VISUALIZERS.register_module()
class LegibleVisualizer(DetLocalVisualizer):
    """mmdet's visualizer for images of any size.

    ``_draw_instances`` differs: boxes end within the image, because the parent's picture shrinks
    within a white frame to make room for the lines of a box at the border; small images with
    boxes alone are drawn larger, since the text is not smaller on them; and names are written in a
    font that has their letters.

    Args:
        least_size (int): Images whose sqrt(height x width) is below it, in pixels, are drawn
            larger, by a whole number. Defaults to 400.
        vis_backends (list[dict], optional): As the parent's.
        name (str): As the parent's.
        save_dir (str, optional): As the parent's.
    """

    def __init__(
        self,
        least_size: int = 400,
        vis_backends: list[dict] | None = None,
        name: str = 'visualizer',
        save_dir: str | None = None,
    ) -> None:
        super().__init__(name=name, vis_backends=vis_backends, save_dir=save_dir, line_width=2)
        self.least_size = least_size

    def _draw_instances(
        self,
        image: ndarray,
        instances: InstanceData,
        classes: list[str] | None,
        palette: list[tuple] | None,
    ) -> ndarray:
        names = classes and legible(tuple(classes))
        with matplotlib.rc_context({'font.sans-serif': families(names or ())}):
            return super()._draw_instances(*self._fit(image, instances), names, palette)

    def _fit(self, image: ndarray, instances: InstanceData) -> tuple[ndarray, InstanceData]:
        """Image and boxes, enlarged, without what reaches beyond."""
        if 'bboxes' not in instances:
            return image, instances
        height, width = image.shape[:2]
        scale = max(1, math.ceil(self.least_size / math.sqrt(height * width)))
        if 'masks' in instances:
            scale = 1
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        instances = copy(instances)
        limits = instances.bboxes.new_tensor([width, height, width, height]) * scale - 1
        instances.bboxes = (instances.bboxes * scale).clamp(min=0).minimum(limits)
        return image, instances
