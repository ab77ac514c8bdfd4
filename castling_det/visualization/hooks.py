"""What a test writes of each image: a picture, or a label map."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from PIL import Image

from castling_det.inference.run_onnx import picture_name
from castling_det.output_files import atomic_write

LEAST_SCORE = 0.3  # of the boxes that are drawn


@HOOKS.register_module()
class OverlayHook(Hook):
    """Draw ground truth above prediction, of boxes or label maps, or both classes on the image.

    mmdet's and mmseg's hooks differ from each other, and write pictures of the same name over one
    another; here they keep the path of their image below the folder of the images. Our own
    visualizers draw, whichever the config has; its backends keep what goes into no folder.

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
        self.drawn = 0  # of the images of a test

    def before_test_epoch(self, runner: Runner) -> None:
        self.drawn = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        if self.draw and batch_idx % self.interval == 0:
            self._draw(runner, 'val', outputs[0], runner.iter + batch_idx)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        if not self.draw:
            return
        for sample in outputs:
            if self.test_out_dir is None:
                self._draw(runner, 'test', sample, self.drawn)
            else:
                dataset = runner.test_dataloader.dataset
                write_overlay(Path(self.test_out_dir), dataset, sample)
            self.drawn += 1

    def _draw(self, runner: Runner, name: str, sample: BaseDataElement, step: int) -> None:
        from castling_det.visualization.drawing import truth_above_prediction  # brings mmdet

        dataset = getattr(runner, f'{name}_dataloader').dataset
        picture = truth_above_prediction(sample, dataset.metainfo, LEAST_SCORE)
        runner.visualizer.add_image(name, picture, step)


class LastValidationHook(Hook):
    """Draw some images of the last validation of a training, truth above prediction.

    Images that are no local files are left out, and so are samples of a data set without classes.

    Args:
        folder (str | Path): Where to.
        number (int): How many, evenly over the validation set. Defaults to 8.
    """

    def __init__(self, folder: str | Path, number: int = 8) -> None:
        self.folder, self.number = Path(folder), number

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[BaseDataElement],
    ) -> None:
        if runner.iter < runner.max_iters or not is_main_process():
            return
        last, dataset = len(runner.val_dataloader) - 1, runner.val_dataloader.dataset
        drawn = np.linspace(0, last, min(self.number, last + 1), dtype=int)
        if batch_idx not in drawn or 'classes' not in getattr(dataset, 'metainfo', {}):
            return
        for sample in outputs[: math.ceil(self.number / len(drawn))]:
            if Path(getattr(sample, 'img_path', '')).is_file():
                write_overlay(self.folder, dataset, sample)


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
            path = path_below_images(runner.test_dataloader.dataset, sample).with_suffix('.png')
            with atomic_write(self.folder / path) as unfinished:
                Image.fromarray(labels.astype(kind)).save(unfinished)


def write_overlay(folder: Path, dataset: object, sample: BaseDataElement) -> None:
    """Write the picture of a sample, with the path of its image below those of the data set."""
    from castling_det.visualization.drawing import truth_above_prediction, write_picture

    path = path_below_images(dataset, sample)
    picture = truth_above_prediction(sample, dataset.metainfo, LEAST_SCORE)
    write_picture(folder / path.with_name(picture_name(path)), picture)


def path_below_images(dataset: object, sample: BaseDataElement) -> Path:
    """Path of an image below the folder that all images of a data set lie in.

    An image that lies elsewhere has its whole path, without the root.
    """
    folder = os.path.commonpath(list(_image_folders(dataset)))
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
