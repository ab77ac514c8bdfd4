"""Files that are written whole or not at all, and places that are tried before the work begins."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from mmengine.fileio import LocalBackend, register_backend

from castling_det.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file under another name, and give it its own when all is written.

    Args:
        path (Path): The file to be; one that is there stays until then. Folders are made.

    Yields:
        Path: Where to write, in the same folder and with the same suffix.

    Raises:
        InputError: If it cannot be written; what was at ``path`` is untouched.
    """
    unfinished = path.with_name(f'.unfinished-{os.getpid()}-{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise InputError(
            f'{path} cannot be written ({error.strerror or error}): make room, or choose another '
            'folder'
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file so that its name never stands for a part of it, whatever interrupts.

    Args:
        path (str | Path): Local file; it is replaced.
        content (bytes): All of it.

    Raises:
        InputError: If it cannot be written; what was at ``path`` is untouched.
    """
    try:
        with atomic_write(Path(path)) as unfinished, unfinished.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except InputError as error:
        raise InputError(
            f'{error}; the files before it are as they were, and --resume goes on from them'
        ) from error


def require_writable(folder: str | Path, option: str = '--work-dir') -> None:
    """Write a file to the folder, or to the nearest one above that exists, and remove it again.

    What the rights say is no answer for root, nor on a file system that is read-only or full.

    Args:
        folder (str | Path): Where something is to be written later.
        option (str): Of the command line, that names it. Defaults to '--work-dir'.

    Raises:
        InputError: If that fails.
    """
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with NamedTemporaryFile(prefix='.writable', dir=nearest) as probe:
            probe.write(b'1')
            probe.flush()
    except OSError as error:
        raise InputError(
            f'{folder} cannot be written ({nearest}: {error.strerror}): choose another {option}'
        ) from error


def require_place(file: Path, option: str) -> None:
    """A file can be written there later.

    Raises:
        InputError: If there is a folder, or the folder around it cannot be written.
    """
    if file.is_dir():
        raise InputError(f'{option} {file} is a folder: give the name of a file')
    require_writable(file.parent, option)


@register_backend('whole_file', force=True)
class WholeFileBackend(LocalBackend):
    """Local files, of which checkpoints are written by :func:`write_whole`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_whole(filepath, obj)
