"""Boxes and label maps on images, as pictures or videos. Needs mmdet, and mmseg for label maps."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer
from numpy import ndarray
from PIL import Image

from castling_det.inference.frames import Frame, ImageFiles, VideoFile
from castling_det.inference.predictors import Predictor, records
from castling_det.replacing import replacing

_SUFFIXES = {'.jpg', '.jpeg', '.png'}

Write = Callable[[Frame, ndarray], None]


@VISUALIZERS.register_module()
class LegibleVisualizer(DetLocalVisualizer):
    """mmdet's visualizer for images of any size.

    ``_draw_instances`` differs: boxes end within the image, because the parent's picture shrinks
    within a white frame to make room for the lines of a box at the border; and small images with
    boxes alone are drawn larger, since the text is not smaller on them.

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
        if 'bboxes' not in instances:
            return super()._draw_instances(image, instances, classes, palette)
        height, width = image.shape[:2]
        scale = max(1, math.ceil(self.least_size / math.sqrt(height * width)))
        if 'masks' in instances:
            scale = 1
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        instances = copy(instances)
        limits = instances.bboxes.new_tensor([width, height, width, height]) * scale - 1
        instances.bboxes = (instances.bboxes * scale).clamp(min=0).minimum(limits)
        return super()._draw_instances(image, instances, classes, palette)


def visualizer_for(sample: BaseDataElement, dataset_meta: dict[str, Any]) -> Visualizer:
    """The visualizer that draws a sample: boxes, or a label map with a legend."""
    if isinstance(sample, DetDataSample):
        visualizer = LegibleVisualizer()
    else:
        from castling_det.segmentation.overlay import LegendVisualizer  # detectors need no mmseg

        visualizer = LegendVisualizer()
    visualizer.dataset_meta = dataset_meta
    return visualizer


def draw(
    visualizer: Visualizer, image: ndarray, sample: BaseDataElement, truth: bool = False
) -> ndarray:
    """Draw the predictions of a sample, or its ground truth, on its image.

    Args:
        visualizer (Visualizer): As of :func:`visualizer_for`.
        image (ndarray): ``(H, W, 3)``, uint8, BGR.
        sample (BaseDataElement): Boxes in pixels of ``image``, or a label map of its size.
        truth (bool): The ground truth in place of the predictions. Defaults to False.

    Returns:
        ndarray: As ``image``, or larger by a whole number; label maps have a legend to the right.
    """
    rgb = image[..., ::-1]
    options = dict(draw_gt=truth, draw_pred=not truth)
    if isinstance(sample, DetDataSample):
        options['pred_score_thr'] = 0
    visualizer.add_datasample('picture', rgb, sample, **options)
    return np.ascontiguousarray(visualizer._image[..., ::-1])


def write_picture(path: Path, picture: ndarray) -> None:
    """Write a BGR picture in the format of the suffix, whole or not at all."""
    _, encoded = cv2.imencode(path.suffix, picture)
    with replacing(path) as unfinished:
        unfinished.write_bytes(encoded.tobytes())


def write_label_map(path: Path, labels: ndarray, palette: list[tuple]) -> None:
    """Write a label map as PNG with a palette, whole or not at all.

    Args:
        path (Path): With the suffix .png.
        labels (ndarray): ``(H, W)``, the class of each pixel, from 0.
        palette (list[tuple]): Colour of each class, red, green and blue.

    Raises:
        ValueError: If there are more classes than numbers in an 8-bit file.
    """
    if len(palette) > 256:
        raise ValueError(f'{path}: {len(palette)} classes do not fit into 8 bits a pixel')
    picture = Image.fromarray(labels.astype(np.uint8), mode='P')
    picture.putpalette(np.asarray(palette, np.uint8).tobytes())
    with replacing(path) as unfinished:
        picture.save(unfinished)


@contextmanager
def writer_for(frames: ImageFiles | VideoFile, folder: Path) -> Iterator[Write]:
    """How to write what was drawn on frames: pictures of the files' names, or an mp4 video.

    A picture that is neither JPEG nor PNG becomes PNG. The video appears when all is written; it is
    as wide as its first frame, which for others may cut the end of a legend, the smallest classes.

    Yields:
        Callable[[Frame, ndarray], None]: Writes the picture of a frame.

    Raises:
        ValueError: If the folder holds the input, or if the video cannot be encoded.
    """
    if folder.resolve() == frames.folder.resolve():
        raise ValueError(f'--out-dir {folder} holds the input: choose another folder')
    if isinstance(frames, ImageFiles):
        yield lambda frame, picture: write_picture(_picture_path(folder, frame.file), picture)
        return
    with replacing(folder / f'{frames.file.stem}.mp4') as unfinished:
        video = width = None

        def write(frame: Frame, picture: ndarray) -> None:
            nonlocal video, width
            if video is None:
                width = picture.shape[1]
                video = _open_video(unfinished, frames.frame_rate, picture.shape[1::-1])
            missing = max(0, width - picture.shape[1])
            picture = np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=255)
            video.write(np.ascontiguousarray(picture[:, :width]))

        try:
            yield write
        finally:
            if video is not None:
                video.release()


def _open_video(path: Path, frame_rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), frame_rate, size)
    if not video.isOpened():
        raise ValueError(f'{path.parent} cannot be written to, or OpenCV lacks the codec mp4v')
    return video


def _picture_path(folder: Path, file: Path) -> Path:
    name = file.name if file.suffix.lower() in _SUFFIXES else f'{file.name}.png'
    return folder / name


def _label_map_path(folder: Path, frame: Frame) -> Path:
    number = '' if frame.number is None else f'.{frame.number:06d}'
    return folder / 'label_maps' / f'{frame.file.name}{number}.png'


def draw_predictions(
    frames: ImageFiles | VideoFile,
    predict: Predictor,
    folder: Path,
    score_thr: float,
    track: Callable[[ImageFiles | VideoFile], Iterable[Frame]] = iter,
) -> tuple[int, int | None]:
    """Write what a model sees on frames, as pictures and as data.

    Of a detector the data are ``predictions.json``, a list of one dict a box, see
    :func:`castling_det.inference.predictors.records`; of a segmentor a palette PNG for each frame,
    ``label_maps/NAME.png`` (of a video ``label_maps/NAME.NUMBER.png``, from 0), whose numbers are
    classes from 0 in the order of the model, whatever ``reduce_zero_label`` says of the training.

    Args:
        frames (ImageFiles | VideoFile): Where the images come from.
        predict (Predictor): What looks at them.
        folder (Path): Where the pictures, or the video, go; it is made.
        score_thr (float): Least score, 0 to 1, of boxes that are drawn and written.
        track (Callable): Iterates over the frames, and may show the progress.

    Returns:
        tuple[int, int | None]: Number of frames drawn, and of boxes on them; None for a segmentor.

    Raises:
        ValueError: If no frame can be read, or if nothing can be written to the folder.
    """
    found, num_drawn, visualizer = [], 0, None
    with writer_for(frames, folder) as write:
        for frame in track(frames):
            sample = predict(frame.image)
            visualizer = visualizer or visualizer_for(sample, predict.dataset_meta)
            if isinstance(sample, DetDataSample):
                instances = sample.pred_instances
                sample.pred_instances = instances[instances.scores >= score_thr]
                found += records(frame, sample, predict.dataset_meta['classes'])
            else:
                labels = sample.pred_sem_seg.data[0].numpy()
                path = _label_map_path(folder, frame)
                write_label_map(path, labels, predict.dataset_meta['palette'])
            write(frame, draw(visualizer, frame.image, sample))
            num_drawn += 1
    if not num_drawn:
        raise ValueError(f'none of the {len(frames)} files in {frames.folder} is a readable image')
    if not isinstance(sample, DetDataSample):
        return num_drawn, None
    with replacing(folder / 'predictions.json') as unfinished:
        unfinished.write_text('[\n' + ',\n'.join(map(json.dumps, found)) + '\n]\n')
    return num_drawn, len(found)
