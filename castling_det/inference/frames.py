"""Where a demo's images come from: image files, or the frames of a video."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from castling_det.datasets.loading import LoadReadableImage
from castling_det.errors import InputError
from castling_det.inference.run_onnx import IMAGE_SUFFIXES, images_below

VIDEO_SUFFIXES = {'.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm'}


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        file (Path, optional): The image, or the video that it is of, below the folder of the input;
            None where pixels were given.
        number (int, optional): Its place in the video, from 0; None for a single image.
        image (ndarray): ``(H, W, 3)``, uint8, RGB.
    """

    file: Path | None
    number: int | None
    image: ndarray


class ImageFiles:
    """Image files, read one after the other; those that cannot be read are left out.

    An image of more than 178,956,970 pixels (Pillow's limit) is not read: it may not fit in memory.

    Args:
        folder (Path): Where they are.
        files (Sequence[Path]): Below it, in the order in which they come.

    Attributes:
        unreadable (dict[Path, str]): What the last iteration left out so far, and why.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.folder = folder
        self.files = files
        self.unreadable: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        self.unreadable = {}
        load = LoadReadableImage()
        for file in self.files:
            try:
                _check_size(self.folder / file)
                image = load(dict(img_path=str(self.folder / file)))['img']
            except Image.DecompressionBombError as error:
                self.unreadable[file] = str(error).partition(',')[0]
            except InputError:
                self.unreadable[file] = 'damaged or not an image'
            else:
                yield Frame(file, None, _swapped(image))


def _swapped(image: ndarray) -> ndarray:
    """OpenCV's BGR to RGB."""
    return np.ascontiguousarray(image[..., ::-1])


def _check_size(file: Path) -> None:
    """Let Pillow, which reads the header alone, refuse what is too large."""
    with suppress(OSError, SyntaxError, ValueError):  # OpenCV reads more, and says what it cannot
        Image.open(file).close()


class VideoFile:
    """The frames of a video.

    Its length is what the file says, which may differ from what can be decoded.

    Args:
        file (Path): Any video that OpenCV can decode.

    Attributes:
        folder (Path): Where it is.
        frame_rate (float): Frames per second.

    Raises:
        InputError: If no frame can be read, or if the file does not say its frame rate.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.parent
        capture = cv2.VideoCapture(str(file))
        is_read, _ = capture.read()
        self.frame_rate = capture.get(cv2.CAP_PROP_FPS)
        self._length = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()
        if not is_read:
            raise InputError(f'{file} is damaged or not a video that OpenCV can decode')
        if not self.frame_rate > 0:
            raise InputError(f'{file} does not say its frame rate: convert it to a constant one')

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        capture = cv2.VideoCapture(str(self.file))
        try:
            number = 0
            is_read, image = capture.read()
            while is_read:
                yield Frame(Path(self.file.name), number, _swapped(image))
                number += 1
                is_read, image = capture.read()
        finally:
            capture.release()


def open_frames(source: Path, out_dir: Path | None = None) -> ImageFiles | VideoFile:
    """What a path stands for: an image, the images of a folder and of those in it, or a video.

    Args:
        source (Path): Image, folder or video.
        out_dir (Path, optional): A folder in ``source`` that is left out: of what was drawn before.

    Raises:
        InputError: If there is nothing, a folder without images, or a video that cannot be read.
    """
    if source.is_dir():
        files = images_below(source, out_dir)
        if not files:
            raise InputError(
                f'folder {source} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))})'
            )
        return ImageFiles(source, files)
    if not source.is_file():
        raise InputError(f'{source} does not exist: give an image, a folder or a video')
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFile(source)
    return ImageFiles(source.parent, [Path(source.name)])
