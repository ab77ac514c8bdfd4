"""What a model sees on frames, as pictures or a video, and as data.

Needs mmdet, and the library of the model.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from numpy import ndarray

from castling_det.checkpoint import atomic_write
from castling_det.errors import InputError
from castling_det.inference.frames import Frame, ImageFiles, VideoFile
from castling_det.inference.predictor import Predictor, records
from castling_det.visualization.drawing import (
    draw,
    picture_name,
    visualizer_for,
    write_label_map,
    write_picture,
)

Write = Callable[[Frame, ndarray], None]


@contextmanager
def writer_for(frames: ImageFiles | VideoFile, folder: Path) -> Iterator[Write]:
    """How to write what was drawn on frames: pictures of the files' paths, or an mp4 video.

    A picture that is neither JPEG nor PNG becomes PNG. The video appears when all is written; it is
    as wide as its first frame, which for others may cut the end of a legend, the smallest classes.

    Yields:
        Callable[[Frame, ndarray], None]: Writes the picture of a frame.

    Raises:
        InputError: If the folder holds the input, or if the video cannot be encoded.
    """
    if folder.resolve() == frames.folder.resolve():
        raise InputError(f'--out-dir {folder} holds the input: choose another folder')
    if isinstance(frames, ImageFiles):
        _check_names(frames, folder)
        yield lambda frame, picture: write_picture(_picture_path(folder, frame.file), picture)
        return
    with atomic_write(folder / f'{frames.file.stem}.mp4') as unfinished:
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


def draw_predictions(
    frames: ImageFiles | VideoFile,
    predict: Predictor,
    folder: Path,
    score_thr: float,
    track: Callable[[ImageFiles | VideoFile], Iterable[Frame]] = iter,
) -> tuple[int, int | None]:
    """Write what a model sees on frames, as pictures and as data, frame by frame.

    Of a detector or classifier the data are ``predictions.json``, a list of one dict a box or a
    class, see :func:`castling_det.inference.predictor.records`; until all frames are done they
    stand one a line in ``predictions.unfinished.jsonl``, which stays where the work ends early. Of
    a segmentor they are a palette PNG for each frame, ``label_maps/NAME.png`` (of a video
    ``label_maps/NAME.NUMBER.png``, from 0), whose numbers are classes from 0 in the order of the
    model, whatever ``reduce_zero_label`` says of the training.

    Args:
        frames (ImageFiles | VideoFile): Where the images come from.
        predict (Predictor): What looks at them.
        folder (Path): Where the pictures, or the video, go; it is made.
        score_thr (float): Least score, 0 to 1, of boxes that are drawn and written.
        track (Callable): Iterates over the frames, and may show the progress.

    Returns:
        tuple[int, int | None]: Number of frames drawn, and of boxes on them; None but for a
        detector.

    Raises:
        InputError: If no frame can be read, or if nothing can be written to the folder.
    """
    num_drawn, num_boxes, visualizer = 0, None, None
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / 'predictions.unfinished.jsonl'
    with writer_for(frames, folder) as write, unfinished.open('w', buffering=1) as lines:
        for frame in track(frames):
            sample = predict(frame.image)
            visualizer = visualizer or visualizer_for(sample, predict.dataset_meta)
            if is_label_map := 'pred_sem_seg' in sample:
                labels = sample.pred_sem_seg.data[0].numpy()
                path = _label_map_path(folder, frame.file, frame.number)
                write_label_map(path, labels, predict.dataset_meta['palette'])
            else:
                if isinstance(sample, DetDataSample):
                    instances = sample.pred_instances
                    sample.pred_instances = instances[instances.scores >= score_thr]
                    num_boxes = (num_boxes or 0) + len(sample.pred_instances)
                found = records(frame, sample, predict.dataset_meta['classes'])
                lines.writelines(f'{json.dumps(record)}\n' for record in found)
            write(frame, draw(visualizer, frame.image, sample))
            num_drawn += 1
    try:
        if not num_drawn:
            reasons = '; '.join(f'{file}: {why}' for file, why in frames.unreadable.items())
            raise InputError(f'none of the {len(frames)} images can be read ({reasons})')
        if is_label_map:
            return num_drawn, None
        text = unfinished.read_text().strip().replace('\n', ',\n')
        with atomic_write(folder / 'predictions.json') as whole:
            whole.write_text(f'[\n{text}\n]\n')
        return num_drawn, num_boxes
    finally:
        unfinished.unlink()
