"""Reading checkpoints without executing what a pickle may hold."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

# What a Runner checkpoint holds beside tensors and plain containers: its message hub's buffers.
_RUNNER_TYPES = [
    HistoryBuffer,
    np.ndarray,
    np.dtype,
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
    if not Path(filename).is_file():
        raise FileNotFoundError(f'checkpoint {filename} does not exist')
    try:
        with torch.serialization.safe_globals(_RUNNER_TYPES):
            return torch.load(filename, map_location=map_location, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f'{filename} is damaged or holds more than data, and is not read: {reason}'
        ) from error


def refuse_unsafe_checkpoints() -> None:
    """Make every local load of mmengine's Runner go through :func:`read_checkpoint`.

    mmengine's own loader falls back to ``weights_only=False``, which executes a pickle's code.
    """

    def load_from_local(filename: str, map_location: str | None) -> dict[str, Any]:
        return read_checkpoint(filename, map_location or 'cpu')

    CheckpointLoader.register_scheme('', load_from_local, force=True)
