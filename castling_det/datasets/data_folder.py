"""Somebody's folder of images as files, before it is known what they are."""

import random
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from castling_det.datasets.image_files import first_five, read_utf8
from castling_det.errors import InputError
from castling_det.inference.run_onnx import IMAGE_SUFFIXES, walk
from castling_det.output_files import atomic_write

DERIVED = 'castling_det'  # the folder, below the root, of what is written for a config
VAL_SHARE = 5  # one image of so many validates where there is no val split
IMAGE_FOLDERS = {'images', 'image', 'img', 'imgs', 'jpegimages'}  # no name of a class
SPLITS = dict(train='train', training='train', val='val', valid='val', validation='val')
SPLITS |= dict(test='test', testing='test')


def split_of(path: PurePosixPath) -> str | None:
    """'train', 'val' or 'test', by the lowest part that has words of one: ``instances_val.json``.

    ``training_data/val2017`` is of val, and so is ``valannot``; ``train_and_val`` is of none.
    """
    for part in reversed(path.parts):
        words = (word.removesuffix('annot') for word in re.findall('[a-z]+', part.lower()))
        found = {SPLITS[word] for word in words if word in SPLITS}
        if len(found) == 1:
            return found.pop()
    return None


def class_names(file: Path, names: object) -> list[str]:
    """Names of classes as a file has them, in the order of their numbers.

    Args:
        file (Path): The file.
        names (object): A list, or a dict with a name for each number from 0 on.

    Raises:
        InputError: If they are neither, or one is no text.
    """
    if isinstance(names, dict):
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'{file}: the names of the classes are to be a list of texts, or a dict with a text '
            'for each number from 0 on: write them so'
        )
    return names


class DataFolder:
    """Files of a data set, below its root; hidden ones and those that we wrote do not count.

    mmseg and mmpretrain do read what lies in hidden folders, unless they have a list of images.

    Args:
        root (Path): The folder.

    Attributes:
        root (Path): The same, absolute.
        files (list[PurePosixPath]): Below the root, at any depth.
        images (list[PurePosixPath]): Those of them that are named as images.
        hidden (list[PurePosixPath]): Images in hidden folders: thumbnails of a network drive.
        notes (list[str]): What was made of the files and what was left out, a sentence each.

    Raises:
        InputError: If it is no folder, or holds no image.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f'{root} is no folder')
        self.root = root.resolve()
        self.files, hidden = [], []
        for folder, folders, names in walk(self.root):
            folders[:] = [f for f in folders if f != DERIVED]
            below = PurePosixPath(Path(folder).relative_to(self.root).as_posix())
            is_hidden = any(part.startswith('.') for part in below.parts)
            files = hidden if is_hidden else self.files
            files += [below / name for name in names if not name.startswith('.')]
        self.images, self.hidden = (
            [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
            for files in (self.files, hidden)
        )
        self.notes: list[str] = []
        if not self.images:
            raise InputError(
                f'{root} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))}): give the folder of '
                'a data set'
            )

    def read(self, file: PurePosixPath) -> str:
        """The text of a file, without a byte order mark.

        Raises:
            InputError: If it is no UTF-8.
        """
        return read_utf8(self.root / file, 'utf-8-sig')

    def write(self, name: str, text: str) -> str:
        """Write a file of ours; returns its path below the root.

        Raises:
            InputError: If the folder cannot be written.
        """
        try:
            with atomic_write(self.root / DERIVED / name) as unfinished:
                unfinished.write_bytes(text.encode())
        except InputError as error:
            raise InputError(
                f'{error}, to which you copy the data set: its lists are written below it'
            ) from error
        return f'{DERIVED}/{name}'

    def choose(self, parents: Sequence[PurePosixPath], labels: PurePosixPath) -> PurePosixPath:
        """Of folders whose images all fit the labels, the one that is called ``images`` or so.

        Raises:
            InputError: If there are several, and none or more than one is called so.
        """
        if len(parents) == 1:
            return parents[0]
        named = [each for each in parents if IMAGE_FOLDERS & set(str(each).lower().split('/'))]
        if len(named) != 1:
            raise InputError(
                f'{self.root / labels} fits the images of several folders ({first_five(parents)}): '
                'move away all but the right one, or call that one images'
            )
        others = first_five(each for each in parents if each not in named)
        self.notes.append(
            f'images for {labels}: those in {named[0]}, not those of the same names in {others}'
        )
        return named[0]

    def divide(self, things: Sequence, what: str) -> tuple[list, list]:
        """What trains and what validates, by a fixed seed, where there is no val split.

        Raises:
            InputError: If there is one thing alone.
        """
        if len(things) < 2:
            raise InputError(
                f'{self.root} has no val split, and too few {what} to make one ({len(things)}): '
                'two are needed, the second to validate on'
            )
        held = random.Random(0).sample(range(len(things)), max(1, len(things) // VAL_SHARE))
        note = f'no val split: one image of {VAL_SHARE}, drawn by a fixed seed, validates'
        self.notes += [note] if note not in self.notes else []
        return (
            [thing for number, thing in enumerate(things) if number not in set(held)],
            [things[number] for number in sorted(held)],
        )


def require_train(folder: DataFolder, splits: dict) -> None:
    """Refuse a data set without a training split.

    Raises:
        InputError: Naming what it has.
    """
    if 'train' not in splits:
        others = f'{", ".join(splits)} and ' if splits else ''
        raise InputError(
            f'{folder.root} has {others}no training split: let the name of its file or folder have '
            'the word train'
        )
