"""What a model sees on frames, as pictures or a video, and as data.

Needs mmdet, and the library of the model.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from castling_det.errors import InputError
from castling_det.inference.frames import ImageFiles, VideoFile
from castling_det.inference.result import Result
from castling_det.inference.run_onnx import picture_name
from castling_det.output_files import atomic_write
from castling_det.visualization.drawing import write_label_map


@contextmanager
def writer_for(frames: ImageFiles | VideoFile, folder: Path) -> Iterator[Callable[[Result], None]]:
    """How to write what was drawn on frames: pictures of the files' paths, or an mp4 video.

    A picture that is neither JPEG nor PNG becomes PNG. The video appears when all is written; it is
    as wide as its first frame, which for others may cut the end of a legend, the smallest classes.

    Yields:
        Callable[[Result], None]: Draws a result and writes its picture.

    Raises:
        InputError: If the folder holds the input, or if the video cannot be encoded.
    """
    if folder.resolve() == frames.folder.resolve():
        raise InputError(f'--out-dir {folder} holds the input: choose another folder')
    if isinstance(frames, ImageFiles):
        _check_names(frames, folder)
        yield lambda result: result.save(_picture_path(folder, result.path))
        return
    with atomic_write(folder / f'{frames.file.stem}.mp4') as unfinished:
        video = width = None

        def write(result: Result) -> None:
            nonlocal video, width
            picture = result.draw()[..., ::-1]
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


def _check_names(frames: ImageFiles, folder: Path) -> None:
    """``a.tif`` becomes ``a.tif.png``, which may be another image's name already."""
    sources = {}
    for file in frames.files:
        for path in (_picture_path(folder, file), _label_map_path(folder, file)):
            other = sources.setdefault(path, file)
            if other != file:
                raise InputError(f'{other} and {file} would become one {path}: rename one of them')


def _open_video(path: Path, frame_rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), frame_rate, size)
    if not video.isOpened():
        raise InputError(f'{path.parent} cannot be written to, or OpenCV lacks the codec mp4v')
    return video


def _picture_path(folder: Path, file: Path) -> Path:
    return folder / file.with_name(picture_name(file))


def _label_map_path(folder: Path, file: Path, number: int | None = None) -> Path:
    end = '.png' if number is None else f'.{number:06d}.png'
    return folder / 'label_maps' / file.with_name(file.name + end)


@dataclass(frozen=True)
class Drawn:
    """What :func:`draw_predictions` wrote.

    Attributes:
        num_images (int): Images or frames drawn.
        num_boxes (int, optional): Boxes on them; None but for a detector.
        best_score (float, optional): Of all boxes, also of those under the threshold; None where
            there is none.
    """

    num_images: int
    num_boxes: int | None
    best_score: float | None


def draw_predictions(
    results: Iterable[Result], frames: ImageFiles | VideoFile, folder: Path
) -> Drawn:
    """Write what a model sees on frames, as pictures and as data, frame by frame.

    The data are ``predictions.json``, a list of one dict an image or frame, see
    :meth:`Result.to_dict`; until all frames are done they stand one a line in
    ``predictions.unfinished.jsonl``, which stays where the work ends early. Of a segmentor there is
    also a palette PNG for each frame, ``label_maps/NAME.png`` (of a video
    ``label_maps/NAME.NUMBER.png``, from 0), whose numbers are classes from 0 in the order of the
    model, whatever ``reduce_zero_label`` says of the training.

    Args:
        results (Iterable[Result]): Of the frames.
        frames (ImageFiles | VideoFile): Where the images come from.
        folder (Path): Where the pictures, or the video, go; it is made.

    Raises:
        InputError: If no frame can be read, and as :func:`writer_for`.
    """
    num_images, num_boxes, scores = 0, None, []
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / 'predictions.unfinished.jsonl'
    with writer_for(frames, folder) as write, unfinished.open('w', buffering=1) as lines:
        try:
            for result in results:
                if result.label_map is not None:
                    path = _label_map_path(folder, result.path, result.frame)
                    write_label_map(path, result.label_map, result.palette)
                if result.boxes is not None:
                    num_boxes = (num_boxes or 0) + len(result.boxes)
                    scores += [] if result.best_score is None else [result.best_score]
                lines.write(f'{json.dumps(result.to_dict())}\n')
                write(result)
                num_images += 1
        except InputError:
            unfinished.unlink()
            raise
    text = unfinished.read_text().strip().replace('\n', ',\n')
    with atomic_write(folder / 'predictions.json') as whole:
        whole.write_text(f'[\n{text}\n]\n')
    unfinished.unlink()
    return Drawn(num_images, num_boxes, max(scores, default=None))
