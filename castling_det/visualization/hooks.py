"""What a test writes of each image: a picture, or a label map."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image

from castling_det.checkpoint import atomic_write
from castling_det.inference.run_onnx import picture_name


@HOOKS.register_module()
class OverlayHook(Hook):
    """Draw ground truth, left, and prediction, right, of boxes or label maps.

    mmdet's and mmseg's hooks differ from each other, and write pictures of the same name over one
    another; here they keep the path of their image below the folder of the images.

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
        self.draw, self.interval, self.test_out_dir = draw, interval, test_out_dir

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            self._draw(runner, 'val', outputs[0], step)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        if not self.draw:
            return
        for place, sample in enumerate(outputs):
            out_file = None
            if self.test_out_dir is not None:
                path = path_below_images(runner, sample)
                out_file = str(Path(self.test_out_dir) / path.with_name(picture_name(path)))
            self._draw(runner, 'test', sample, batch_idx * len(outputs) + place, out_file)

    @staticmethod
    def _draw(
        runner: Runner, name: str, sample: BaseDataElement, step: int, out_file: str | None = None
    ) -> None:
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        runner.visualizer.add_datasample(
            name, image, data_sample=sample, step=step, out_file=out_file
        )


class LabelMapHook(Hook):
    """Write the predicted label maps of a test, grey PNGs whose numbers are classes.

    They keep the path of their image below the folder of the images, with the suffix .png. Where
    the data set has ``reduce_zero_label`` the numbers are those of its files, one more than the
    model's. ``IoUMetric`` writes the same maps, those of one name over one another.

    Args:
        folder (str): Where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        for sample in outputs:
            labels = sample.pred_sem_seg.data[0].cpu().numpy()
            labels = labels + bool(sample.get('reduce_zero_label', False))
            kind = np.uint8 if labels.max() < 256 else np.uint16
            path = path_below_images(runner, sample).with_suffix('.png')
            with atomic_write(self.folder / path) as unfinished:
                Image.fromarray(labels.astype(kind)).save(unfinished)


def path_below_images(runner: Runner, sample: BaseDataElement) -> Path:
    """Path of a test image below the folder that all images of the test data lie in.

    An image that lies elsewhere has its whole path, without the root.
    """
    folder = os.path.commonpath(list(_image_folders(runner.test_dataloader.dataset)))
    path = Path(os.path.abspath(sample.img_path))
    return path.relative_to(folder if path.is_relative_to(folder) else path.anchor)


def _image_folders(dataset: object) -> Iterator[str]:
    """Of a data set, or of those inside of wrappers."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    for each in inner if isinstance(inner, list) else [inner]:
        if each is not None:
            yield from _image_folders(each)
    if inner is None:
        prefix = getattr(dataset, 'data_prefix', {})
        yield os.path.abspath(prefix.get('img_path') or prefix.get('img') or '')
