"""Files that stand under their name only when they are complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under another name, and give it its own when all is written.

    Args:
        path (Path): The file to be; one that is there stays until then. Folders are made.

    Yields:
        Path: Where to write, in the same folder and with the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'.unfinished-{path.name}')
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
