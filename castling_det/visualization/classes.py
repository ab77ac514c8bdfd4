"""Classes written on images. Needs mmpretrain."""

import math

import cv2
import matplotlib
import mmcv
import numpy as np
from mmengine.registry import VISUALIZERS
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from numpy import ndarray

from castling_det.inference.run_onnx import NUM_BEST
from castling_det.visualization.text import families, legible


@VISUALIZERS.register_module()
class ClassVisualizer(UniversalVisualizer):
    """mmpretrain's visualizer, called as those of mmdet and mmseg are.

    ``add_datasample`` differs: it writes the best classes with their scores, below the true
    one, in a font that has their letters; small images are drawn larger, since the text is not
    smaller on them.

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
        super().__init__(name=name, vis_backends=vis_backends, save_dir=save_dir)
        self.least_size = least_size

    def add_datasample(
        self,
        name: str,
        image: ndarray,
        data_sample: DataSample,
        draw_gt: bool = True,
        draw_pred: bool = True,
        out_file: str | None = None,
        step: int = 0,
    ) -> None:
        """Draw, and write to the file or to the backends.

        Args:
            name (str): For the backends.
            image (ndarray): ``(H, W, 3)``, uint8, RGB.
            data_sample (DataSample): With ``gt_label``, or ``pred_score`` of each class.
            draw_gt (bool): Whether to write the true class. Defaults to True.
            draw_pred (bool): Whether to write the best classes. Defaults to True.
            out_file (str, optional): Picture to write.
            step (int): For the backends. Defaults to 0.
        """
        scale = max(1, math.ceil(self.least_size / math.sqrt(image.shape[0] * image.shape[1])))
        self.set_image(cv2.resize(image, None, fx=scale, fy=scale))
        names = legible(tuple(self.dataset_meta['classes']))
        lines = []
        if draw_gt and 'gt_label' in data_sample:
            lines += [f'truth: {names[label]}' for label in data_sample.gt_label.tolist()]
        if draw_pred and 'pred_score' in data_sample:
            best = data_sample.pred_score.topk(min(NUM_BEST, len(names)))
            scores_and_labels = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            lines += [f'{score:.2f} {names[label]}' for score, label in scores_and_labels]
        with matplotlib.rc_context({'font.sans-serif': families(names)}):
            self.draw_texts(
                '\n'.join(lines),
                np.array([8, 8]),
                font_sizes=max(10, min(self.width, self.height) // 32),
                colors='white',
                bboxes=dict(facecolor='black', alpha=0.6, edgecolor='none'),
            )
            picture = self.get_image()
        self.set_image(picture)
        if out_file is None:
            self.add_image(name, picture, step=step)
        else:
            mmcv.imwrite(picture[..., ::-1], out_file)
