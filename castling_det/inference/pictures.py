"""Images with boxes on them, and writing them as pictures or as a video. Needs mmdet."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData
from numpy import ndarray

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


def draw(
    visualizer: DetLocalVisualizer, image: ndarray, sample: DetDataSample, truth: bool = False
) -> ndarray:
    """Draw the predictions of a sample, or its ground truth, on its image.

    Args:
        visualizer (DetLocalVisualizer): With ``dataset_meta`` set, for names and colours.
        image (ndarray): ``(H, W, 3)``, uint8, BGR.
        sample (DetDataSample): Boxes in pixels of ``image``.
        truth (bool): The ground truth in place of the predictions. Defaults to False.

    Returns:
        ndarray: As ``image``, or larger by a whole number.
    """
    rgb = image[..., ::-1]
    visualizer.add_datasample(
        'picture', rgb, sample, draw_gt=truth, draw_pred=not truth, pred_score_thr=0
    )
    return np.ascontiguousarray(visualizer._image[..., ::-1])


def write_picture(path: Path, picture: ndarray) -> None:
    """Write a BGR picture in the format of the suffix, whole or not at all."""
    _, encoded = cv2.imencode(path.suffix, picture)
    with replacing(path) as unfinished:
        unfinished.write_bytes(encoded.tobytes())


@contextmanager
def writer_for(frames: ImageFiles | VideoFile, folder: Path) -> Iterator[Write]:
    """How to write what was drawn on frames: pictures of the files' names, or an mp4 video.

    A picture that is neither JPEG nor PNG becomes PNG. The video appears when all is written.

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
        video = None

        def write(frame: Frame, picture: ndarray) -> None:
            nonlocal video
            if video is None:
                video = _open_video(unfinished, frames.frame_rate, picture.shape[1::-1])
            video.write(picture)

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


def draw_predictions(
    frames: ImageFiles | VideoFile,
    predict: Predictor,
    folder: Path,
    score_thr: float,
    track: Callable[[ImageFiles | VideoFile], Iterable[Frame]] = iter,
) -> tuple[int, int]:
    """Write what a model sees on frames, as pictures and as ``predictions.json``.

    The json is a list of one dict a box, see :func:`castling_det.inference.predictors.records`.

    Args:
        frames (ImageFiles | VideoFile): Where the images come from.
        predict (Predictor): What looks at them.
        folder (Path): Where the pictures, or the video, go; it is made.
        score_thr (float): Least score, 0 to 1, of what is drawn and written.
        track (Callable): Iterates over the frames, and may show the progress.

    Returns:
        tuple[int, int]: Number of frames drawn, and of boxes on them.

    Raises:
        ValueError: If no frame can be read, or if nothing can be written to the folder.
    """
    visualizer = LegibleVisualizer()
    visualizer.dataset_meta = predict.dataset_meta
    found, num_drawn = [], 0
    with writer_for(frames, folder) as write:
        for frame in track(frames):
            sample = predict(frame.image)
            sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= score_thr]
            write(frame, draw(visualizer, frame.image, sample))
            found += records(frame, sample, predict.dataset_meta['classes'])
            num_drawn += 1
    if not num_drawn:
        raise ValueError(f'none of the {len(frames)} files in {frames.folder} is a readable image')
    with replacing(folder / 'predictions.json') as unfinished:
        unfinished.write_text('[\n' + ',\n'.join(map(json.dumps, found)) + '\n]\n')
    return num_drawn, len(found)
