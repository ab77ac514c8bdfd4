"""Image files that are not there, are no images, or are not as large as their annotation."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from castling_det.datasets.loading import LoadReadableImage
from castling_det.datasets.report import DatasetReport
from castling_det.errors import InputError
from castling_det.progress import tracked

SAMPLE = 32  # images that are decoded before every training
ORIENTATION = 0x0112  # the tag of EXIF; 1 is upright, above 4 width and height change places
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises
ADVICE = {
    'unreadable': 'cannot be read: mend them, or take them out of the data set',
    'turned': (
        'are turned by their EXIF orientation, but annotated as they are stored: save them upright '
        "or load them with color_type='color_ignore_orientation'"
    ),
    'other size': (
        'have another size than their annotation: fit `width`, `height` and boxes, or the label '
        'map, to the file'
    ),
    'unsure': (
        'are turned or mirrored by their EXIF orientation, and their size does not say whether '
        'they were annotated so: look at them by tools/browse_dataset.py'
    ),
}


def first_five(things: Iterable) -> str:
    """The first five of them, as text."""
    things = list(things)
    return ', '.join(map(str, things[:5])) + (', ...' if len(things) > 5 else '')


def read_utf8(file: Path, encoding: str = 'utf-8') -> str:
    """The text of a file.

    Args:
        file (Path): The file.
        encoding (str): 'utf-8-sig' takes a byte order mark off, where there is one. Defaults to
            'utf-8', as which mmengine and pycocotools read.

    Raises:
        InputError: If it is no UTF-8, or begins with a byte order mark.
    """
    try:
        text = file.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f'{file} is no UTF-8 ({error.reason}): save it so') from error
    if text.startswith('\ufeff'):
        raise InputError(f'{file} begins with a byte order mark: save it as UTF-8 without one')
    return text


def names_below(folder: Path, paths: Iterable[str]) -> list[str]:
    """Paths as they are below the folder; those that lie elsewhere stay whole."""
    paths = map(Path, paths)
    return [str(p.relative_to(folder) if p.is_relative_to(folder) else p) for p in paths]


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the names (which may begin with folders, or be whole paths) that are missing.

    Each folder is listed once: asking for every file is slow on network drives.
    """
    wanted = defaultdict(list)
    for name in names:
        parent, base = os.path.split(name)
        wanted[parent].append((base, name))
    missing = []
    for parent, files in wanted.items():
        there = set(os.listdir(folder / parent)) if (folder / parent).is_dir() else set()
        missing += [name for base, name in files if base not in there]
    return missing


def in_threads(function: Callable, things: Collection, what: str) -> Iterator[tuple[Any, Any]]:
    """Each thing and what the function makes of it; what takes long says how far it is."""
    with ThreadPoolExecutor() as pool:
        results = zip(things, pool.map(function, things), strict=True)
        yield from tracked(results, len(things), f'{what} read')


def check_images(
    report: DatasetReport,
    folder: Path,
    sizes: Mapping[str, tuple[int, int] | None],
    loading: LoadReadableImage,
    decode: bool,
) -> None:
    """Compare the headers of images with their annotations, and decode some or all of them.

    An image is decoded too where its header cannot be read or does not say what is expected, so
    that the verdict is that of the loading.

    Args:
        report (DatasetReport): Gets one error or warning for each kind of trouble.
        folder (Path): Where the images are.
        sizes (Mapping[str, tuple[int, int] | None]): File name to the width and height of its
            annotation; None where there is none.
        loading (LoadReadableImage): How the pipeline loads images.
        decode (bool): Whether to decode all of them, not an evenly spread sample of 32.
    """
    names = list(sizes)
    if not decode and len(names) > SAMPLE:
        names = [names[place] for place in np.linspace(0, len(names) - 1, SAMPLE, dtype=int)]
    decoded = set(names)
    load = LoadReadableImage(color_type=loading.color_type)
    load_as_stored = LoadReadableImage(color_type='color_ignore_orientation')
    obeys_exif = loading.color_type in ('color', 'grayscale')

    def trouble(name: str) -> tuple[str, str] | None:
        size, orientation = _header(folder / name)
        if not obeys_exif:
            orientation = 1
        shown = size[::-1] if orientation > 4 else size
        expected = sizes[name]
        if name in decoded or not all(size) or expected not in (None, shown):
            image = dict(img_path=str(folder / name))
            try:
                shown = load(image)['img_shape'][::-1]
            except InputError:
                return 'unreadable', name
            if expected is not None and shown != expected:
                is_turned = load_as_stored(image)['img_shape'][::-1] == expected
                is_, annotated = ('x'.join(map(str, each)) for each in (shown, expected))
                kind = 'turned' if is_turned else 'other size'
                return kind, f'{name} is {is_}, not {annotated}'
        return ('unsure', name) if orientation > 1 and size == expected else None

    troubles = defaultdict(list)
    for _, found in in_threads(trouble, sizes, 'images'):
        if found is not None:
            troubles[found[0]].append(found[1])
    for kind, files in troubles.items():
        message = f'{len(files)} of {len(sizes)} images in {folder} {ADVICE[kind]}'
        is_error = kind != 'unsure'
        if kind == 'unreadable' and loading.on_error == 'skip':
            is_error = decoded.issubset(files)
            message += '' if is_error else '; training skips them'
        elif kind == 'unreadable':
            message += " (training can do without them, by LoadReadableImage(on_error='skip'))"
        message += f' ({first_five(files)})'
        report.error(message) if is_error else report.warnings.append(message)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as EXIF turns it.

    Raises:
        InputError: If it cannot be read.
    """
    size, orientation = _header(path)
    if not all(size):
        raise InputError(f'{path} cannot be read: mend it, or take it out of the data set')
    return size[::-1] if orientation > 4 else size


def _header(path: Path) -> tuple[tuple[int, int], int]:
    """Width and height as stored, and EXIF's orientation; zeros and 1 for what Pillow refuses."""
    try:
        with Image.open(path) as image:
            # A PNG would be decoded in search of tags behind its pixels.
            tags = image.getexif() if image.format != 'PNG' or 'exif' in image.info else {}
            orientation = tags.get(ORIENTATION)
            return image.size, orientation if orientation in range(1, 9) else 1
    except UNREADABLE:
        return (0, 0), 1
