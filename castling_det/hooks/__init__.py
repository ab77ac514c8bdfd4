"""What happens in a training over time: the ramp, measurements, checkpoints and resuming."""

from .castling_hook import CastlingHook
from .checkpoint_fit_hook import CheckpointFitHook
from .finite_loss_hook import FiniteLossHook
from .gap_hook import GapHook
from .resume_hook import ResumeHook
from .safe_checkpoint_hook import SafeCheckpointHook

__all__ = [
    'CastlingHook',
    'CheckpointFitHook',
    'FiniteLossHook',
    'GapHook',
    'ResumeHook',
    'SafeCheckpointHook',
]
