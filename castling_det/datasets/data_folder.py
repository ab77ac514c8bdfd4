"""Somebody's folder of images as files, before it is known what they are."""

import os
import random
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from castling_det.checkpoint import write_whole
from castling_det.errors import InputError
from castling_det.inference.run_onnx import IMAGE_SUFFIXES

DERIVED = 'castling_det'  # the folder, below the root, of what is written for a config
VAL_SHARE = 5  # one image of so many validates where there is no val split
SPLITS = dict(train='train', training='train', val='val', valid='val', validation='val')
SPLITS |= dict(test='test', testing='test')


def split_of(path: PurePosixPath) -> str | None:
    """'train', 'val' or 'test', if a path has words of one of them: ``instances_val2017.json``."""
    words = re.findall('[a-z]+', str(path).lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None


class DataFolder:
    """Files of a data set, below its root; hidden ones and those that we wrote do not count.

    Args:
        root (Path): The folder.

    Attributes:
        root (Path): The same, absolute.
        files (list[PurePosixPath]): Below the root, at any depth.
        images (list[PurePosixPath]): Those of them that are named as images.
        notes (list[str]): What was made of the files and what was left out, a sentence each.

    Raises:
        InputError: If it is no folder, or holds no image.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f'{root} is no folder')
        self.root = root.resolve()
        self.files = []
        for folder, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith('.') and f != DERIVED)
            below = PurePosixPath(Path(folder).relative_to(self.root).as_posix())
            self.files += [below / name for name in sorted(names) if not name.startswith('.')]
        self.images = [f for f in self.files if f.suffix.lower() in IMAGE_SUFFIXES]
        self.notes: list[str] = []
        if not self.images:
            raise InputError(
                f'{root} holds no image ({", ".join(sorted(IMAGE_SUFFIXES))}): give the folder of '
                'a data set'
            )

    def read(self, file: PurePosixPath) -> str:
        """The text of a file."""
        return (self.root / file).read_text(encoding='utf-8-sig', errors='replace')

    def write(self, name: str, text: str) -> str:
        """Write a file of ours; returns its path below the root.

        Raises:
            InputError: If the folder cannot be written.
        """
        path = self.root / DERIVED / name
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f'{path.parent} cannot be made ({error.strerror}), and the lists of the data set '
                'are to be written there: copy the data set to where you may write'
            ) from error
        write_whole(path, text.encode())
        return f'{DERIVED}/{name}'

    def divide(self, things: Sequence) -> tuple[list, list]:
        """What trains and what validates, by a fixed seed, where there is no val split.

        Raises:
            InputError: If there is one thing alone.
        """
        if len(things) < 2:
            raise InputError(
                f'{self.root} has no val split and one image to train on ({things[0]}): a second '
                'one is needed to validate on'
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
        raise InputError(
            f'{folder.root} has {", ".join(splits)} and no training split: let the name of its '
            'file or folder have the word train'
        )
