"""Detect, segment or classify with an exported ONNX file, by onnxruntime, numpy and Pillow alone.

python run_onnx.py model.onnx image.jpg --out picture.png
python run_onnx.py model.onnx photos image.jpg --out drawn

``tools/export_onnx.py`` puts a copy of this file beside each model. To use it as a module::

    from PIL import Image
    from run_onnx import open_model

    detect = open_model('detector.onnx')
    boxes, scores, labels = detect(Image.open('image.jpg'))
    names = [detect.classes[label] for label in labels]

    segment = open_model('segmentor.onnx')
    labels = segment(Image.open('image.jpg'))  # (H, W)

    classify = open_model('classifier.onnx')
    scores = classify(Image.open('image.jpg'))  # (classes,)
    name = classify.classes[scores.argmax()]
"""

import argparse
import functools
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    import onnxruntime

NEEDED = {'task', 'decode', 'classes', 'palette', 'input_size', 'interpolation'}  # of the metadata
IMAGE_SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'}
NUM_BEST = 5  # of a classifier's classes that the command names
# Pillow's names of what is read as training reads it; 16-bit grey begins with 'I;16'.
MODES = {'1', 'L', 'P', 'LA', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr'}
EXTRA_SAMPLES = 338  # the TIFF tag that says what alpha means
FONTS = (  # for class names that are not ASCII; Pillow looks for them where the system keeps fonts
    'DejaVuSans.ttf',
    'NotoSans-Regular.ttf',
    'NotoSansCJK-Regular.ttc',
    'wqy-zenhei.ttc',
    'Arial Unicode.ttf',
    'PingFang.ttc',
    'Arial.ttf',
    'msyh.ttc',
    'malgun.ttf',
)


class OnnxModel:
    """What models in an ONNX file have in common; :func:`open_model` makes one.

    Attributes:
        classes (list[str]): Names, in the order of the labels.
        palette (list[tuple]): A colour (R, G, B) for each of them.
        metadata (dict): All that the file says of itself.
    """

    def __init__(self, session: 'onnxruntime.InferenceSession', metadata: dict) -> None:
        self.session, self.metadata = session, metadata
        self.classes = metadata['classes']
        self.palette = [tuple(colour) for colour in metadata['palette']]

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image is resized to.

        They are fixed, or in the image's proportions: as large as ``most_sides`` of the metadata
        allow, the shorter side and the longer one, or with a shorter side of ``short_side``.

        Raises:
            ValueError: If nothing would be left of its shorter side.
        """
        most, short = (self.metadata.get(key) for key in ('most_sides', 'short_side'))
        if short is not None:
            return tuple(int(short * side / min(height, width)) for side in (height, width))
        if most is None:
            return tuple(self.metadata['input_size'])
        factor = min(most[0] / min(height, width), most[1] / max(height, width))
        size = int(height * factor + 0.5), int(width * factor + 0.5)
        if 0 in size:
            raise ValueError(f'an image of {height}x{width} pixels is too narrow')
        return size

    def _run(self, image: ndarray) -> list[ndarray]:
        """Outputs for an image ``(H, W, 3)``."""
        return self._outputs(self.pixels(image))

    def _outputs(self, pixels: ndarray) -> list[ndarray]:
        try:
            outputs = self.session.run(None, {'image': pixels.transpose(2, 0, 1)[None]})
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ValueError(f'onnxruntime: {" ".join(str(error).split())}') from error
        return [output[0] for output in outputs]

    def pixels(self, image: ndarray) -> ndarray:
        """An image ``(H, W, 3)``, resized and padded or cut as the file wants it, float32."""
        size = self.input_size(*image.shape[:2])
        backend = self.metadata.get('backend', 'cv2')
        pixels = resize(image, *size, self.metadata['interpolation'], backend)
        if self.metadata.get('short_side') is not None:
            pixels = center(pixels, *self.metadata['input_size'])
        if self.metadata.get('pad_size') is not None:
            pixels = pad(pixels, *self.metadata['pad_size'], self.metadata['pad_value'])
        return pixels


class Detections(NamedTuple):
    """What was found in an image, best first.

    Attributes:
        boxes (ndarray): ``(n, 4)``, float32, x1, y1, x2, y2 in pixels of the image.
        scores (ndarray): ``(n,)``, float32.
        labels (ndarray): ``(n,)``, int64, places in ``OnnxDetector.classes``.
    """

    boxes: ndarray
    scores: ndarray
    labels: ndarray


class OnnxDetector(OnnxModel):
    """A detector, written with ``--decode boxes`` or ``nms``, as a function from image to boxes."""

    def __call__(self, image: Image.Image | ndarray) -> Detections:
        """Detect.

        Args:
            image (Image | ndarray): A picture, turned as its EXIF data say, or RGB values
                ``(H, W, 3)``, uint8.

        Returns:
            Detections: All that the file's score threshold lets through.
        """
        image = rgb_values(image)
        outputs = self._run(image)
        if self.metadata['decode'] == 'nms':
            used = outputs[1] > 0
            found = Detections(*(each[used] for each in outputs))
        else:
            found = self._suppress(*outputs)
        height, width = self.input_size(*image.shape[:2])
        sides = np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
        return found._replace(boxes=found.boxes * sides)

    def _suppress(self, boxes: ndarray, scores: ndarray) -> Detections:
        """Boxes ``(N, 4)`` and scores ``(N, classes)`` of all cells to what is found."""
        cells, labels = np.nonzero(scores > self.metadata['score_thr'])
        found = Detections(boxes[cells], scores[cells, labels], labels)
        kept = nms(*found, self.metadata['iou_threshold'], self.metadata['max_per_img'])
        return Detections(*(each[kept] for each in found))


class OnnxSegmentor(OnnxModel):
    """A segmentor as a function from an image to the class of each of its pixels."""

    def __call__(self, image: Image.Image | ndarray) -> ndarray:
        """Segment.

        Where the file's size is not the image's, the logits of ``--decode raw`` are interpolated,
        as in training and tests; of ``--decode labels`` each pixel takes the nearest label. Logits
        of sliding windows are averaged where they overlap.

        Args:
            image (Image | ndarray): A picture, turned as its EXIF data say, or RGB values
                ``(H, W, 3)``, uint8.

        Returns:
            ndarray: ``(H, W)``, int64, places in ``classes``.
        """
        image = rgb_values(image)
        (output,) = self._run(image)
        height, width = image.shape[:2]
        if self.metadata['decode'] == 'raw':
            return _interpolate(output.transpose(1, 2, 0), height, width, 'bilinear').argmax(axis=2)
        rows, cols = (
            ((np.arange(n) + 0.5) * size / n).astype(int)
            for n, size in zip((height, width), output.shape, strict=True)
        )
        return output[rows[:, None], cols]

    def _run(self, image: ndarray) -> list[ndarray]:
        """The file's output for the image, or in windows logits ``(classes, H, W)``."""
        if self.metadata.get('window') is None:
            return super()._run(image)
        pixels = self.pixels(image)
        height, width = pixels.shape[:2]
        divisor = self.metadata['pad_size_divisor']
        padded = (-(-side // divisor) * divisor for side in (height, width))
        pixels = pad(pixels, *padded, np.array(self.metadata['pad_colour'], np.float32))
        logits = np.zeros((len(self.classes), *pixels.shape[:2]), np.float32)
        times = np.zeros(pixels.shape[:2], np.float32)
        for rows in self._windows(pixels, 0):
            for cols in self._windows(pixels, 1):
                (seen,) = self._outputs(pixels[rows, cols])
                logits[:, rows, cols] += seen
                times[rows, cols] += 1
        return [(logits / times)[:, :height, :width]]

    def _windows(self, pixels: ndarray, axis: int) -> list[slice]:
        """Where the windows lie along an axis; the last ones end where the image does."""
        side = pixels.shape[axis]
        window, stride = (self.metadata[key][axis] for key in ('window', 'stride'))
        window = min(window, side)
        starts = [*range(0, side - window, stride), side - window]
        return [slice(start, start + window) for start in starts]


class OnnxClassifier(OnnxModel):
    """A classifier as a function from an image to the score of each class."""

    def __call__(self, image: Image.Image | ndarray) -> ndarray:
        """Classify.

        Args:
            image (Image | ndarray): A picture, turned as its EXIF data say, or RGB values
                ``(H, W, 3)``, uint8.

        Returns:
            ndarray: ``(classes,)``, float32, whose sum is 1, in the order of ``classes``.
        """
        (output,) = self._run(rgb_values(image))
        if self.metadata['decode'] == 'scores':
            return output
        powers = np.exp(output - output.max())
        return powers / powers.sum()


def open_model(
    model: str | Path, threads: int = 0, providers: Sequence[str] = ('CPUExecutionProvider',)
) -> OnnxDetector | OnnxSegmentor | OnnxClassifier:
    """Read an ONNX file.

    Args:
        model (str | Path): File written by ``tools/export_onnx.py``.
        threads (int): Of each operation on the CPU; 0 leaves it to onnxruntime. Defaults to 0.
        providers (Sequence[str]): onnxruntime's execution providers. Defaults to the CPU's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If onnxruntime cannot run it, if a provider is not there, if it was not written
            by ``tools/export_onnx.py``, or if it holds a detector's raw outputs.
    """
    import onnxruntime  # what else is in this file does without

    if not Path(model).is_file():
        raise FileNotFoundError(f'ONNX file {model} does not exist')
    _require(providers, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors have no base of their own
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'{model} is damaged or no ONNX file that onnxruntime {onnxruntime.__version__} can '
            f'run (castling-det export makes one of a checkpoint): {reason}'
        ) from error
    _require(providers, session.get_providers())  # some are there, and what they need is not
    stored = session.get_modelmeta().custom_metadata_map
    if missing := sorted(NEEDED - stored.keys()):
        raise ValueError(
            f'{model} does not say its {", ".join(missing)}: write it with tools/export_onnx.py'
        )
    metadata = {key: json.loads(value) for key, value in stored.items()}
    if metadata['task'] == 'segmentation':
        return OnnxSegmentor(session, metadata)
    if metadata['task'] == 'classification':
        return OnnxClassifier(session, metadata)
    if metadata['decode'] == 'raw':
        raise ValueError(f'{model} holds raw outputs: export it with --decode boxes or nms')
    return OnnxDetector(session, metadata)


def _require(providers: Sequence[str], present: Sequence[str]) -> None:
    """onnxruntime itself would run on the CPU."""
    if absent := [name for name in providers if name not in present]:
        raise ValueError(f'no {", ".join(absent)} here: onnxruntime has {", ".join(present)}')


def read_image(file: str | Path) -> ndarray:
    """``(H, W, 3)``, uint8, of an image file, see :func:`rgb_values`.

    Raises:
        ValueError: If it is missing, damaged, no image, larger than Pillow's limit of 178,956,970
            pixels, or of a kind that is not read as in training.
    """
    try:
        with Image.open(file) as image:
            return rgb_values(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'image {file} cannot be read: {error}') from error


def rgb_values(image: Image.Image | ndarray) -> ndarray:
    """``(H, W, 3)``, uint8, of a picture, turned as its EXIF data say.

    The numbers are those of OpenCV, by which models are trained: of 16 bits the upper 8, alpha is
    left out. Pillow alone clips 16-bit grey at 255. What would differ by more than 1 is refused.

    Raises:
        ValueError: For other kinds of pixels.
    """
    if not isinstance(image, Image.Image):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'an array is (H, W, 3) of uint8, not {image.shape} of {image.dtype}')
        return image
    mode, is_tiff = image.mode, image.format == 'TIFF'
    has_alpha = is_tiff and mode == 'RGBA' and EXTRA_SAMPLES in image.tag_v2
    if has_alpha or not (mode in MODES or mode.startswith('I;16')):
        kind = 'TIFF with transparency' if has_alpha else f'pixels of mode {mode}'
        raise ValueError(f'{kind} would be read otherwise than in training: save it as 8-bit RGB')
    if image.format != 'WEBP':  # whose EXIF data OpenCV does not read
        image = ImageOps.exif_transpose(image)
    if mode.startswith('I;16'):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if mode != 'CMYK':
        return np.asarray(image.convert('RGB'))
    ink, white = np.split(np.asarray(image).astype(int), [3], axis=2)
    white = 255 - white
    rgb = white * (255 - ink) // 255 if is_tiff else white - (ink * white >> 8)
    return rgb.astype(np.uint8)


def resize(
    image: ndarray, height: int, width: int, interpolation: str, backend: str = 'cv2'
) -> ndarray:
    """Resize as the library does with which the model is tested.

    Pillow's filters are others than OpenCV's, and average where they shrink, which models see.

    Args:
        image (ndarray): ``(H, W, 3)``, uint8.
        height, width (int): Of the result.
        interpolation (str): 'bilinear' or 'bicubic'.
        backend (str): 'cv2' or 'pillow'. Defaults to 'cv2'.

    Returns:
        ndarray: ``(height, width, 3)``, float32, whole numbers from 0 to 255.
    """
    if backend == 'pillow':
        filtered = Image.fromarray(image).resize(
            (width, height), Image.Resampling[interpolation.upper()]
        )
        return np.asarray(filtered, np.float32)
    if interpolation == 'bicubic':
        return np.clip(np.rint(_interpolate(image, height, width, interpolation)), 0, 255)
    # OpenCV's weights have 11 bits here; 20 of the sum's 22 are cut off row by row, 2 are rounded.
    rows, row_weights = _taps(height, image.shape[0], interpolation)
    cols, col_weights = _taps(width, image.shape[1], interpolation)
    row_weights, col_weights = (np.rint(w * 2048).astype(int) for w in (row_weights, col_weights))
    wide = sum(image[:, i] * w[:, None] for i, w in zip(cols, col_weights, strict=True))
    full = sum(
        (wide[i] >> 4) * w[:, None, None] >> 16 for i, w in zip(rows, row_weights, strict=True)
    )
    return ((full + 2) >> 2).astype(np.float32)


def center(image: ndarray, height: int, width: int) -> ndarray:
    """The middle ``(height, width, 3)`` of an image that is as large or larger."""
    top, left = (
        round((n - size) / 2) for n, size in zip(image.shape, (height, width), strict=False)
    )
    return image[top : top + height, left : left + width]


def pad(image: ndarray, height: int, width: int, value: float | ndarray) -> ndarray:
    """An image ``(h, w, 3)`` with pixels of one value, or colour, below and right of it."""
    padded = np.empty((max(height, image.shape[0]), max(width, image.shape[1]), 3), image.dtype)
    padded[...] = value
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _interpolate(image: ndarray, height: int, width: int, interpolation: str) -> ndarray:
    """Resize ``(H, W, channels)`` in float32."""
    rows, row_weights = _taps(height, image.shape[0], interpolation)
    cols, col_weights = _taps(width, image.shape[1], interpolation)
    tall = sum(image[i] * w[:, None, None] for i, w in zip(rows, row_weights, strict=True))
    return sum(tall[:, i] * w[:, None] for i, w in zip(cols, col_weights, strict=True))


def _taps(num_out: int, num_in: int, interpolation: str) -> tuple[ndarray, ndarray]:
    """Places ``(taps, num_out)`` in the input, and their weights, of each pixel of the output."""
    places = (np.arange(num_out) + 0.5) * (1 / (num_out / num_in)) - 0.5
    if interpolation == 'bilinear':
        places = places.astype(np.float32)  # as in OpenCV, whose weights they are to the bit
    offsets = np.arange(2) if interpolation == 'bilinear' else np.arange(-1, 3)
    taps = np.floor(places) + offsets[:, None]
    d = np.abs(places - taps)
    weights = 1 - d if interpolation == 'bilinear' else _cubic(d)
    return np.clip(taps, 0, num_in - 1).astype(np.int64), weights.astype(np.float32)


def _cubic(d: ndarray, a: float = -0.75) -> ndarray:
    """The kernel of cubic convolution at distances from 0 to 2; ``a`` is OpenCV's."""
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, far)


def nms(
    boxes: ndarray,
    scores: ndarray,
    labels: ndarray,
    iou_threshold: float,
    max_kept: int | None,
) -> ndarray:
    """Greedy non-maximum suppression within each class.

    Args:
        boxes (ndarray): ``(N, 4)``, x1, y1, x2, y2.
        scores (ndarray): ``(N,)``.
        labels (ndarray): ``(N,)``.
        iou_threshold (float): A box goes if its IoU with a better one of its class is greater.
        max_kept (int, optional): How many of the best to keep; None keeps all.

    Returns:
        ndarray: ``(K,)``, int64, the kept boxes by descending score.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-scores, kind='stable')
    kept = []
    while len(order) and (max_kept is None or len(kept) < max_kept):
        best, order = order[0], order[1:]
        kept.append(best)
        corner = np.maximum(boxes[order, :2], boxes[best, :2])
        sides = np.minimum(boxes[order, 2:], boxes[best, 2:]) - corner
        shared = np.clip(sides, 0, None).prod(axis=1)
        covered = shared > iou_threshold * (areas[order] + areas[best] - shared)
        order = order[~covered | (labels[order] != labels[best])]
    return np.array(kept, dtype=np.int64)


def place_labels(
    boxes: Iterable[Sequence[float]],
    sizes: Iterable[tuple[float, float]],
    picture_size: tuple[int, int],
) -> Iterator[tuple[float, float] | None]:
    """Places for labels at boxes, where none covers one before it or leaves the picture.

    Args:
        boxes (Iterable): ``(left, top, right, bottom)`` each, in pixels, the most important first.
        sizes (Iterable): Width and height of each label in pixels.
        picture_size (tuple[int, int]): Height and width in pixels.

    Yields:
        tuple[float, float] | None: The left upper corner, or None where there is no place.
    """
    height, width = picture_size
    taken = np.empty((0, 4))
    for (left, top, right, bottom), (w, h) in zip(boxes, sizes, strict=True):
        place = None
        for x, y in (
            *((left, top - h), (left, top), (left, bottom), (left, bottom - h)),
            *((right - w, top - h), (right - w, top), (right - w, bottom), (right - w, bottom - h)),
        ):
            x = max(0, min(x, width - w))
            overlaps = (taken[:, :2] < (x + w, y + h)) & (taken[:, 2:] > (x, y))
            if 0 <= y <= height - h and not overlaps.all(axis=1).any():
                place = x, y
                taken = np.vstack([taken, (x, y, x + w, y + h)])
                break
        yield place


@functools.cache
def font_for(text: str, size: int = 11) -> ImageFont.ImageFont | ImageFont.FreeTypeFont | None:
    """Pillow's own font for ASCII, else the first of ``FONTS`` here with all letters, or None."""
    if text.isascii():
        return ImageFont.load_default(size)
    for name in FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        missing = bytes(font.getmask('\U0010ffff'))  # what is drawn for a letter that it lacks
        if all(bytes(font.getmask(letter)) != missing for letter in text if not letter.isspace()):
            return font
    return None


def _legible(model: OnnxModel, label: int, size: int = 11) -> tuple[str, ImageFont.ImageFont]:
    """Name of a class, or what stands for it where no font here can write it; and a font."""
    name = model.classes[label]
    if not font_for(name, size):
        warn_of_font(label, name)
        name = f'class {label}'
    return name, font_for(name, size)


def draw_boxes(image: ndarray, found: Detections, detector: OnnxDetector) -> Image.Image:
    """A picture of RGB values ``(H, W, 3)`` with boxes on it, the best on top.

    Labels do not cover one another: one that finds no free place is left out. A class whose name no
    font here can write is called ``class NUMBER``.
    """
    picture = Image.fromarray(image)
    pen, size = ImageDraw.Draw(picture), max(11, round(math.sqrt(image[..., 0].size) / 40))
    boxes = [(*box[:2], max(box[0], box[2]), max(box[1], box[3])) for box in found.boxes.tolist()]
    colours = [detector.palette[label] for label in found.labels]
    for box, colour in reversed(list(zip(boxes, colours, strict=True))):
        pen.rectangle(box, outline=colour, width=max(2, size // 6))
    names = (_legible(detector, label, size) for label in found.labels)
    scored = zip(names, found.scores, strict=True)
    texts = [(f'{name} {score:.2f}', font) for (name, font), score in scored]
    extents = [pen.textbbox((1, 1), text, font)[2:] for text, font in texts]
    places = place_labels(boxes, extents, image.shape[:2])
    for place, extent, (text, font), colour in zip(places, extents, texts, colours, strict=True):
        if place:
            left, top = place
            pen.rectangle((left, top, left + extent[0], top + extent[1]), fill=colour)
            fill = 'white' if sum(colour) < 384 else 'black'
            pen.text((left + 1, top + 1), text, fill=fill, font=font)
    return picture


def draw_classes(image: ndarray, scores: ndarray, classifier: OnnxClassifier) -> Image.Image:
    """A picture of RGB values ``(H, W, 3)`` with the best classes in its corner.

    A class whose name no font here can write is called ``class NUMBER``.
    """
    picture, lines = Image.fromarray(image), []
    for label in best_labels(scores):
        name, font = _legible(classifier, label)
        lines.append((f'{scores[label]:.2f} {name}', font))
    width = max(int(font.getlength(text)) for text, font in lines)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((2, 2, width + 6, 16 * len(lines) + 2), fill='black')
    for row, (text, font) in enumerate(lines):
        pen.text((4, 16 * row + 4), text, fill='white', font=font)
    return picture


def draw_labels(labels: ndarray, segmentor: OnnxSegmentor) -> Image.Image:
    """A label map ``(H, W)`` as a picture whose pixels are classes, with their colours.

    Raises:
        ValueError: If there are more classes than numbers in 8 bits.
    """
    if len(segmentor.palette) > 256:
        raise ValueError(f'{len(segmentor.palette)} classes do not fit into 8 bits a pixel')
    picture = Image.fromarray(labels.astype(np.uint8), mode='P')
    picture.putpalette(np.array(segmentor.palette, np.uint8).tobytes())
    return picture


def draw_overlay(image: ndarray, labels: ndarray, segmentor: OnnxSegmentor) -> Image.Image:
    """A picture of RGB values ``(H, W, 3)`` with a label map over it, and right of it a legend."""
    colours = draw_labels(labels, segmentor).convert('RGB')
    picture, lines = Image.blend(Image.fromarray(image), colours, 0.6), []
    for label, share in shares(labels):
        name, font = _legible(segmentor, label)
        lines.append((f'{name} {share:.0%}', font, segmentor.palette[label]))
    width = 28 + max(int(font.getlength(text)) for text, font, _ in lines)
    whole = Image.new('RGB', (picture.width + width, max(picture.height, 16 * len(lines))), 'white')
    whole.paste(picture)
    pen = ImageDraw.Draw(whole)
    for row, (text, font, colour) in enumerate(lines):
        left, top = picture.width + 4, 16 * row + 2
        pen.rectangle((left, top, left + 12, top + 12), fill=colour)
        pen.text((left + 18, top), text, fill='black', font=font)
    return whole


def box_records(found: Detections, classes: Sequence[str]) -> list[dict]:
    """Boxes for json."""
    return [
        dict(
            bbox_xyxy=[round(float(side), 2) for side in box],
            score=round(float(score), 4),
            label=classes[label],
        )
        for box, score, label in zip(*found, strict=True)
    ]


def shares(labels: ndarray) -> list[tuple[int, float]]:
    """The numbers in a label map, the most frequent first, with their shares of the pixels."""
    present, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind='stable')
    return [(int(present[i]), float(counts[i] / labels.size)) for i in order]


def label_records(labels: ndarray, classes: Sequence[str]) -> list[dict]:
    """The classes of a label map for json, the largest first, with their shares of the pixels."""
    return [dict(label=classes[label], share=round(share, 4)) for label, share in shares(labels)]


def best_labels(scores: ndarray) -> list[int]:
    """The numbers of the best classes, the best first."""
    return np.argsort(-scores, kind='stable')[:NUM_BEST].tolist()


def class_records(scores: ndarray, classes: Sequence[str]) -> list[dict]:
    """The best classes for json, the best first."""
    return [
        dict(label=classes[label], score=round(float(scores[label]), 4))
        for label in best_labels(scores)
    ]


@functools.cache
def warn_of_font(label: int, name: str) -> None:
    """Say once that pictures have a number for a name."""
    sys.stderr.write(f'warning: no font here can write class {label}: {name}\n')


def predict(
    model: OnnxModel, image: ndarray, out: Path | None, labels: Path | None, score_thr: float
) -> list[dict]:
    """What is found in an image, for json, and written: a picture, and of a segmentor labels.

    Args:
        model (OnnxModel): As of :func:`open_model`.
        image (ndarray): ``(H, W, 3)``, uint8, RGB.
        out (Path, optional): Picture to write, with what was found on it.
        labels (Path, optional): Label map to write, a PNG with a palette.
        score_thr (float): Least score of boxes.
    """
    found = model(image)
    if isinstance(model, OnnxSegmentor):
        records, draw = label_records(found, model.classes), draw_overlay
        if labels:
            labels.parent.mkdir(parents=True, exist_ok=True)
            draw_labels(found, model).save(labels)
    elif isinstance(model, OnnxClassifier):
        records, draw = class_records(found, model.classes), draw_classes
    else:
        found = Detections(*(each[found.scores >= score_thr] for each in found))
        records, draw = box_records(found, model.classes), draw_boxes
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(image, found, model).save(out)
    return records


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """:func:`os.walk` in order, through links too, but for those to a folder that they lie in."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        above = {os.path.realpath(each) for each in (Path(parent), *Path(parent).parents)}
        places = {name: os.path.realpath(Path(parent, name)) for name in sorted(folders)}
        folders[:] = [name for name, place in places.items() if place not in above]
        yield parent, folders, sorted(files)


def images_below(folder: Path, *left_out: Path | None) -> list[Path]:
    """Paths of the images in a folder, with all folders in it, below it, in order.

    Args:
        folder (Path): Where to look.
        *left_out (Path, optional): Folders in it of which there are none: of what was drawn before.
    """
    drawn = {os.path.realpath(each) for each in left_out if each}
    found = []
    for parent, folders, names in walk(folder):
        folders[:] = [f for f in folders if os.path.realpath(Path(parent, f)) not in drawn]
        found += [Path(parent, name).relative_to(folder) for name in names]
    return sorted(file for file in found if file.suffix.lower() in IMAGE_SUFFIXES)


def picture_name(path: Path) -> str:
    """Name of an image's picture: the same, with .png behind what is neither JPEG nor PNG."""
    return path.name if path.suffix.lower() in {'.jpg', '.jpeg', '.png'} else f'{path.name}.png'


def check_outputs(source: Path, out: Path | None, labels: Path | None) -> None:
    """Refuse to write where the input is, or pictures and label maps to one place.

    Args:
        source (Path): Image file; of several, the folder that they are in.
        out, labels (Path, optional): Files to write; of several images, folders.

    Raises:
        ValueError: Naming the option.
    """
    for option, path in (('--out', out), ('--labels', labels)):
        if path and path.resolve() == source.resolve():
            raise ValueError(f'{option} {path} is or holds the input: choose another')
    if out and labels and out.resolve() == labels.resolve():
        raise ValueError(f'--out and --labels are both {out}: choose two')


def name_images(sources: Sequence[Path], out: Path | None, labels: Path | None) -> dict[Path, Path]:
    """Image files by their names: the path below the folder that was given, or their own.

    Args:
        sources (Sequence[Path]): Image files and folders.
        out (Path, optional): Folder for pictures, which are no images if it is in a source.
        labels (Path, optional): Folder for label maps, likewise.

    Raises:
        ValueError: As :func:`check_outputs`, if a folder holds no image, or if two images would
            have one name.
    """
    images, pictures = {}, {}
    for source in sources:
        folder = source if source.is_dir() else source.parent
        check_outputs(folder, out, labels)
        names = images_below(source, out, labels) if source.is_dir() else [Path(source.name)]
        if not names:
            raise ValueError(f'folder {source} holds no image')
        for name in names:
            other = pictures.setdefault(name.with_name(picture_name(name)), folder / name)
            if other != folder / name:
                raise ValueError(f'{other} and {folder / name} would have one name')
            images[name] = folder / name
    return images


def predict_all(
    model: OnnxModel,
    images: dict[Path, Path],
    out: Path | None,
    labels: Path | None,
    score_thr: float,
) -> list[dict]:
    """:func:`predict` for images by their names, with a line of progress on the standard error.

    Those that cannot be read, or not be predicted, are left out, and named there.

    Args:
        model (OnnxModel): As of :func:`open_model`.
        images (dict[Path, Path]): As of :func:`name_images`.
        out (Path, optional): Folder for pictures.
        labels (Path, optional): Folder for label maps, ``NAME.png``.
        score_thr (float): Least score of boxes.

    Returns:
        list[dict]: ``file``, the name, and ``predictions``.

    Raises:
        ValueError: If there is none of which that is not so.
    """
    records, start = [], time.monotonic()
    for number, (name, file) in enumerate(images.items(), 1):
        picture = out and out / name.with_name(picture_name(name))
        label_map = labels and labels / name.with_name(f'{name.name}.png')
        try:
            found = predict(model, read_image(file), picture, label_map, score_thr)
            records.append(dict(file=name.as_posix(), predictions=found))
        except ValueError as error:
            sys.stderr.write(f'\nleft out {name}: {error}\n')
        left = (time.monotonic() - start) / number * (len(images) - number)
        sys.stderr.write(f'\r{number} of {len(images)} images, {left:.0f} s left ')
    sys.stderr.write('\n')
    if not records:
        raise ValueError(f'none of the {len(images)} images could be predicted')
    return records


def main() -> None:
    """The command: what is found as json on the standard output, and on pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('model', help='ONNX file')
    parser.add_argument('images', type=Path, nargs='+', help='image files, or folders of them')
    parser.add_argument('--out', type=Path, help='picture to write; of several images, folder')
    parser.add_argument('--labels', type=Path, help="a segmentor's label map, PNG; likewise")
    parser.add_argument('--score-thr', type=float, default=0.3, help='of boxes, least; 0 to 1')
    parser.add_argument('--threads', type=int, default=0, help="default: onnxruntime's choice")
    parser.add_argument('--provider', default='CPUExecutionProvider', help="onnxruntime's name")
    args = parser.parse_args()
    to_write = (args.out, args.labels, args.score_thr)
    is_single = len(args.images) == 1 and not args.images[0].is_dir()
    try:
        model = open_model(args.model, args.threads, [args.provider])
        if args.labels and not isinstance(model, OnnxSegmentor):
            raise ValueError(f'--labels: {args.model} is no segmentor, and has no label maps')
        if is_single:
            check_outputs(args.images[0], args.out, args.labels)
            records = predict(model, read_image(args.images[0]), *to_write)
        else:
            records = predict_all(model, name_images(args.images, args.out, args.labels), *to_write)
    except (OSError, ValueError) as error:
        raise SystemExit(f'error: {error}') from error
    except KeyboardInterrupt as stop:
        sys.stderr.write('\nstopped\n')
        raise SystemExit(130) from stop
    lines = ',\n '.join(json.dumps(record) for record in records)
    sys.stdout.write(f'[{lines}]\n')
    sys.stdout.flush()
    if args.out and not is_single:
        told = f'{len(records)} pictures in {args.out}'
        if isinstance(model, OnnxDetector):
            num_boxes = sum(len(record['predictions']) for record in records)
            told += f', {num_boxes} boxes with a score of at least {args.score_thr}'
        sys.stderr.write(f'{told}\n')


if __name__ == '__main__':
    main()
