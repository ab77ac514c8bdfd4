"""Image files that are not there, are no images, or are not as large as the annotations say."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from castling_det.datasets.loading import LoadReadableImage
from castling_det.errors import InputError

ADVICE = {
    'unreadable': (
        'cannot be read: mend them, or take them out of the annotations (training alone can do '
        "without them, by LoadReadableImage(on_error='skip'))"
    ),
    'turned': (
        'are turned by their EXIF orientation, but annotated as they are stored: save them upright '
        "or load them with color_type='color_ignore_orientation'"
    ),
    'other size': (
        'have another size than the annotations say: fit `width`, `height` and boxes to the files'
    ),
}


def first_five(things: Iterable) -> str:
    """The first five of them, as text."""
    things = list(things)
    return ', '.join(map(str, things[:5])) + (', ...' if len(things) > 5 else '')


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the names (which may begin with folders) that ``folder`` lacks.

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


def decoding_errors(
    folder: Path, sizes: Mapping[str, tuple[int, int]], color_type: str
) -> Iterator[InputError]:
    """Decode images, and yield one error for each kind of trouble.

    Args:
        folder (Path): Where they are.
        sizes (Mapping[str, tuple[int, int]]): File name to the width and height of its annotation.
        color_type (str): How the pipeline loads images, see ``LoadReadableImage``.
    """
    loading = LoadReadableImage(color_type=color_type)
    loading_as_stored = LoadReadableImage(color_type='color_ignore_orientation')

    def trouble(name: str) -> tuple[str, str] | None:
        image = dict(img_path=str(folder / name))
        try:
            height, width = loading(image)['img_shape']
        except InputError:
            return 'unreadable', name
        if (width, height) == sizes[name]:
            return None
        is_turned = loading_as_stored(image)['img_shape'][::-1] == sizes[name]
        annotated = 'x'.join(map(str, sizes[name]))
        return (
            'turned' if is_turned else 'other size',
            f'{name} is {width}x{height}, not {annotated}',
        )

    troubles = defaultdict(list)
    with ThreadPoolExecutor() as pool:
        for found in filter(None, pool.map(trouble, sizes)):
            troubles[found[0]].append(found[1])
    for kind, files in troubles.items():
        yield InputError(
            f'{len(files)} of {len(sizes)} images in {folder} {ADVICE[kind]} ({first_five(files)})'
        )
