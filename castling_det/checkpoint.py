"""Checkpoints: read without executing what a pickle may hold, compared, and written whole."""

import os
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from castling_det.errors import InputError


def _statistics_method(owner: Any, name: str) -> Callable:
    """What ``getattr`` may do in a pickle: name a statistic of :class:`HistoryBuffer`.

    Allowing ``getattr`` itself, as mmengine does, opens the way to any function.
    """
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'it reaches for the attribute {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)


# What a Runner checkpoint holds beside tensors and plain containers: its message hub's buffers.
_RUNNER_TYPES = [
    HistoryBuffer,
    (_statistics_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    np._core.multiarray._reconstruct,
    np._core.multiarray.scalar,
]


def read_checkpoint(filename: str | Path, map_location: str = 'cpu') -> dict[str, Any]:
    """Load a local checkpoint with ``weights_only=True`` and a short list of allowed types.

    Args:
        filename (str | Path): Local file written by ``torch.save``.
        map_location (str): Device of the tensors. Defaults to 'cpu'.

    Raises:
        InputError: If the file does not exist.
        InputError: If it is not a checkpoint, is damaged, or holds anything but data.
    """
    filename = Path(filename).expanduser()
    if not filename.is_file():
        raise InputError(f'checkpoint {filename} does not exist')
    try:
        with torch.serialization.safe_globals(_RUNNER_TYPES):
            checkpoint = torch.load(filename, map_location=map_location, weights_only=True)
    except Exception as error:  # what the unpickler raises on other bytes has no common type
        detail = str(error).rpartition('WeightsUnpickler error: ')[2].strip()
        reason = f'{type(error).__name__}: {detail}'.splitlines()[0]
        raise InputError(
            f'{filename} is damaged or holds more than data, and is not read: {reason}'
        ) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'{filename} holds a {type(checkpoint).__name__}, not a checkpoint')
    return checkpoint


def weights_of(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint: of mm libraries, of others (``model``), or all that it is.

    Those of a Runner with EMA are the averaged ones, which are what is evaluated.
    """
    return checkpoint.get('state_dict', checkpoint.get('model', checkpoint))


def refuse_unsafe_checkpoints() -> None:
    """Make every load of mmengine's Runner go through :func:`read_checkpoint`.

    mmengine's own loaders fall back to, or start with, ``weights_only=False``, which executes a
    pickle's code. Those of remote schemes (http, s3, ...) are replaced by an error that says so.
    """

    def refuse(filename: str, map_location: str | None = None) -> NoReturn:
        raise InputError(f'{filename} is not local: download it, check it, and give the file')

    for scheme in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(scheme, refuse, force=True)

    def load_from_local(filename: str, map_location: str | None) -> dict[str, Any]:
        return read_checkpoint(filename, map_location or 'cpu')

    CheckpointLoader.register_scheme('', load_from_local, force=True)


def check_fit(
    weights: Mapping[str, Tensor], model: nn.Module, filename: str | Path
) -> tuple[str, str]:
    """Compare a state dict with the model that is to load it, by key and shape.

    What a model renames while it loads counts as missing and unexpected.

    Args:
        weights (Mapping[str, Tensor]): The state dict of a checkpoint.
        model (nn.Module): Receives it afterwards; may be wrapped.
        filename (str | Path): Of the checkpoint, for the messages.

    Returns:
        tuple[str, str]: A sentence that counts the keys, and one that says what does not fit,
        empty if all do.

    Raises:
        InputError: If no key fits.
    """
    theirs = {k.removeprefix('module.'): v for k, v in weights.items() if isinstance(v, Tensor)}
    ours = {k.removeprefix('module.'): v for k, v in model.state_dict().items()}
    if not theirs:
        raise InputError(f'{filename} holds no weights, but {", ".join(list(weights)[:5])}')
    shared = theirs.keys() & ours.keys()
    reshaped = [key for key in ours if key in shared and theirs[key].shape != ours[key].shape]
    if len(shared) == len(reshaped):
        raise InputError(
            f'{filename} is of another model: none of its {len(theirs)} keys (as '
            f"{next(iter(theirs))}) fits one of the {len(ours)} of the config's model (as "
            f'{next(iter(ours))}); give the config that it was trained with'
        )
    counts = (
        f'{filename}: {len(shared) - len(reshaped)} keys matched, '
        f'{_count(ours.keys() - shared)} missing, {_count(theirs.keys() - shared)} unexpected, '
        f'{len(reshaped)} of another shape'
    )
    shapes = '; '.join(
        f'{key} has {tuple(theirs[key].shape)} where the model has {tuple(ours[key].shape)}'
        for key in reshaped[:4]
    )
    faults = [
        f'{_count(keys)} {what}'
        for keys, what in (
            (ours.keys() - shared, 'missing'),
            (theirs.keys() - shared, 'unexpected'),
        )
        if keys
    ]
    if reshaped:
        faults.append(f'{len(reshaped)} of another shape: {shapes}{"; ..." * (len(reshaped) > 4)}')
    if not faults:
        return counts, ''
    remedy = 'give the config that it was trained with'
    if reshaped:
        remedy = f'set num_classes as in the config that it was trained with, or {remedy}'
    return counts, (
        f'{filename} does not fit the config, of its keys {", ".join(faults)}; {remedy}, or train '
        f'anew from what fits by load_from'
    )


def _count(keys: Set[str]) -> str:
    """The number of keys, with the first as an example."""
    return f'{len(keys)} ({min(keys)}, ...)' if keys else '0'


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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
    except OSError as error:
        raise InputError(
            f'{path} cannot be written ({error.strerror}); the files before it are as they were: '
            f'make room or choose another --work-dir, and go on by --resume'
        ) from error


def require_writable(folder: str | Path) -> None:
    """Make the folder where there is none, and write a file to it and remove it again.

    Raises:
        InputError: If one of these fails.
    """
    probe = Path(folder) / '.writable'
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b'1')
        probe.unlink()
    except OSError as error:
        raise InputError(
            f'{folder} cannot be written ({error.strerror}): choose another --work-dir'
        ) from error


@register_backend('whole_file', force=True)
class WholeFileBackend(LocalBackend):
    """Local files, of which checkpoints are written by :func:`write_whole`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_whole(filepath, obj)
