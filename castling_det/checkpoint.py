"""Reading checkpoints without executing what a pickle may hold."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader


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
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a checkpoint, is damaged, or holds anything but data.
    """
    filename = Path(filename).expanduser()
    if not filename.is_file():
        raise FileNotFoundError(f'checkpoint {filename} does not exist')
    try:
        with torch.serialization.safe_globals(_RUNNER_TYPES):
            checkpoint = torch.load(filename, map_location=map_location, weights_only=True)
    except Exception as error:  # what the unpickler raises on other bytes has no common type
        detail = str(error).rpartition('WeightsUnpickler error: ')[2].strip()
        reason = f'{type(error).__name__}: {detail}'.splitlines()[0]
        raise ValueError(
            f'{filename} is damaged or holds more than data, and is not read: {reason}'
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{filename} holds a {type(checkpoint).__name__}, not a checkpoint')
    return checkpoint


def refuse_unsafe_checkpoints() -> None:
    """Make every load of mmengine's Runner go through :func:`read_checkpoint`.

    mmengine's own loaders fall back to, or start with, ``weights_only=False``, which executes a
    pickle's code. Those of remote schemes (http, s3, ...) are replaced by an error that says so.
    """

    def refuse(filename: str, map_location: str | None = None) -> NoReturn:
        raise ValueError(f'{filename} is not local: download it, check it, and give the file')

    for scheme in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(scheme, refuse, force=True)

    def load_from_local(filename: str, map_location: str | None) -> dict[str, Any]:
        return read_checkpoint(filename, map_location or 'cpu')

    CheckpointLoader.register_scheme('', load_from_local, force=True)
