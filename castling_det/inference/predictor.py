"""Images in, results out, whatever computes them: ``castling_det.Predictor``."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.utils import ProgressBar
from numpy import ndarray
from PIL import Image

from castling_det.engine.cli import load_config
from castling_det.errors import InputError
from castling_det.inference.frames import Frame, ImageFiles, VideoFile, open_frames
from castling_det.inference.result import Result
from castling_det.inference.run_onnx import NUM_BEST, rgb_values
from castling_det.stored_config import stored_config

Picture = str | Path | Image.Image | ndarray | ImageFiles | VideoFile


class Predictor:
    """A trained detector, segmentor or classifier, from a checkpoint or an ONNX file.

    Example::

        predict = Predictor('epoch_60.pth')     # its config is in it
        predict = Predictor('detector.onnx')    # as tools/export_onnx.py writes it
        predict = Predictor('config.py', 'epoch_60.pth')
        for result in predict(['a.jpg', 'folder/', 'video.mp4'], batch_size=8):
            print(result.path, result.names, result.scores, result.boxes)

    A config file is executed and must be trusted; the config in a checkpoint is read as data.

    Args:
        model (str | Path | Config): Checkpoint or ``.onnx`` file, or a config for ``checkpoint``.
        checkpoint (str | Path, optional): Local file, for a config.
        device (str): As torch names it; an ONNX file runs on the CPU. Defaults to 'cpu'.

    Attributes:
        classes (tuple[str, ...]): Names, in the order of the labels.
        palette (list[tuple]): A colour (R, G, B) for each of them.
        unreadable (dict[Path, str]): Image files that the last call left out, and why.

    Raises:
        InputError: If a file does not exist or cannot be read, if a checkpoint holds no config or
            does not fit it, or if there is no such device.
    """

    def __init__(
        self,
        model: str | Path | Config,
        checkpoint: str | Path | None = None,
        device: str = 'cpu',
    ) -> None:
        files = [Path(file) for file in (model, checkpoint) if isinstance(file, str | Path)]
        if any(file.suffix == '.onnx' for file in files):
            from castling_det.inference.exported_model import ExportedModel

            if checkpoint is not None or device != 'cpu':
                raise InputError('an .onnx file takes no config, and runs on the CPU here')
            self._model = ExportedModel(model)
        else:
            from castling_det.inference.trained_model import TrainedModel  # brings mmdet

            if checkpoint is not None:
                cfg = model if isinstance(model, Config) else load_config(model)
            elif isinstance(model, Config) or Path(model).suffix == '.py':
                raise InputError('a config needs its checkpoint: Predictor(config, checkpoint)')
            else:
                cfg, checkpoint = stored_config(model), model
            self._model = TrainedModel(cfg, checkpoint, device)
        self.classes, self.palette = self._model.classes, self._model.palette
        self.unreadable: dict[Path, str] = {}

    def __call__(
        self,
        pictures: Picture | Iterable[Picture],
        batch_size: int = 1,
        threshold: float = 0.3,
        progress: bool = False,
    ) -> Iterator[Result]:
        """Predict, while the results are iterated over.

        Images have the same results in a batch as alone, up to the rounding of sums. Those that
        leave the test pipeline with the same size are computed together, others one by one; so are
        all of an ONNX file.

        Args:
            pictures: One of these, or an iterable of any of them: the path of an image, of a
                folder (with all folders in it) or of a video, or what :func:`open_frames` makes of
                it; a PIL image, which is turned as its EXIF data say; an RGB array ``(H, W, 3)``,
                uint8.
            batch_size (int): How many are read before they are computed. Defaults to 1.
            threshold (float): Least score, 0 to 1, of boxes. Defaults to 0.3.
            progress (bool): Whether to show on the standard error how far it is. Defaults to False.

        Yields:
            Result: One an image or frame, in order. An image file that cannot be read has none,
            and stands in ``unreadable``.

        Raises:
            InputError: For what is none of these, and if no image at all can be read. Of a list
                all paths are looked for at once.
        """
        if batch_size < 1:
            raise InputError(f'batch_size is at least 1, not {batch_size}')
        if isinstance(pictures, Picture):
            pictures = [pictures]
        total, sources = 0, map(_frames, pictures)
        if isinstance(pictures, list | tuple):
            sources = list(sources)
            total = sum(map(len, sources))
        self.unreadable = {}
        return self._results(sources, batch_size, threshold, total if progress else None)

    def _results(
        self,
        sources: Iterable[Iterable[Frame]],
        batch_size: int,
        threshold: float,
        total: int | None,
    ) -> Iterator[Result]:
        progress = None if total is None else ProgressBar(total, file=sys.stderr)
        frames, num_found = self._read(sources), 0
        while batch := list(islice(frames, batch_size)):
            found = self._model([frame.image for frame in batch])
            for frame, arrays in zip(batch, found, strict=True):
                yield self._result(frame, arrays, threshold)
                num_found += 1
                if progress is not None:
                    progress.update()
        if progress is not None:
            sys.stderr.write('\n')
        if self.unreadable and not num_found:
            reasons = '; '.join(f'{file}: {why}' for file, why in self.unreadable.items())
            raise InputError(f'none of the {len(self.unreadable)} images can be read ({reasons})')

    def _read(self, sources: Iterable[Iterable[Frame]]) -> Iterator[Frame]:
        for source in sources:
            yield from source
            if isinstance(source, ImageFiles):
                left_out = source.unreadable.items()
                self.unreadable |= {source.folder / file: why for file, why in left_out}

    def _result(self, frame: Frame, found: dict[str, ndarray], threshold: float) -> Result:
        if 'probabilities' in found:
            best = np.argsort(-found['probabilities'], kind='stable')[:NUM_BEST]
            found = found | dict(scores=found['probabilities'][best], labels=best)
        elif 'boxes' in found:
            best_score = max(found['scores'].tolist(), default=None)
            above = found['scores'] >= threshold
            found = {name: each[above] for name, each in found.items()}
            found['best_score'] = best_score
        return Result(frame.image, frame.file, frame.number, self.classes, self.palette, **found)


def _frames(picture: Picture) -> ImageFiles | VideoFile | list[Frame]:
    if isinstance(picture, ImageFiles | VideoFile):
        return picture
    if isinstance(picture, str | Path):
        return open_frames(Path(picture))
    if not isinstance(picture, Image.Image | ndarray):
        raise InputError(f'neither a path nor a PIL image nor an RGB array: {picture!r:.100}')
    try:
        return [Frame(None, None, rgb_values(picture))]
    except ValueError as error:
        raise InputError(str(error)) from error
