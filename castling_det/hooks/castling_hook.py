"""The schedule that empties the masks of the auxiliary branches during training."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from castling_det.models.attention import CastlingAttention


def linear_ramp(progress: float, end: float) -> float:
    """Rise from 0 at the start of training to 1 at ``end``, and stay there.

    Args:
        progress (float): Share of the training that is done, 0 to 1.
        end (float): Progress at which the ramp is 1, above 0.
    """
    return min(1.0, progress / end)


@HOOKS.register_module()
class CastlingHook(Hook):
    """Set ``ramp`` on every :class:`CastlingAttention` before each training iteration.

    The ramp is a function of progress alone, so a resumed run needs no state. A probability is
    never above 1, so at ramp 1 every mask is empty whatever the number of tokens, and the last part
    of the training settles batch-norm statistics on what ships.

    Args:
        end (float): Share of the training after which the ramp is 1. Defaults to 0.9.

    Raises:
        ValueError: If ``end`` is not above 0.
    """

    def __init__(self, end: float = 0.9) -> None:
        if end <= 0:
            raise ValueError(f'end is a share of the training above 0, not {end}')
        self.end = end

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        ramp = linear_ramp(runner.iter / runner.max_iters, self.end)
        for module in runner.model.modules():
            if isinstance(module, CastlingAttention):
                module.ramp = ramp
