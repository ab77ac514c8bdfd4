"""The schedule that empties the masks of auxiliary branches: its curves, and who sets it."""

import math

from torch import nn

from castling_det.castling import castling_attentions
from castling_det.errors import InputError


def constant_ramp(progress: float, end: float, begin: float = 0.0) -> float:
    """0 throughout: the fixed threshold of the published code, which need not empty any mask."""
    return 0.0


def linear_ramp(progress: float, end: float, begin: float = 0.0) -> float:
    """Rise in a straight line from 0 at ``begin`` to 1 at ``end``, and stay there.

    Args:
        progress (float): How much of the training is done, in any unit.
        end (float): Progress from which the ramp is 1, in the same unit.
        begin (float): Progress up to which the ramp is 0. Defaults to 0, the start of training.
    """
    return min(1.0, max(0.0, (progress - begin) / (end - begin)))


def cosine_ramp(progress: float, end: float, begin: float = 0.0) -> float:
    """Rise along half a cosine, slow at both ends; arguments of :func:`linear_ramp`."""
    return (1 - math.cos(math.pi * linear_ramp(progress, end, begin))) / 2


def step_ramp(progress: float, end: float, begin: float = 0.0) -> float:
    """Jump from 0 to 1 at ``end``."""
    return float(progress >= end)


CURVES = dict(constant=constant_ramp, linear=linear_ramp, cosine=cosine_ramp, step=step_ramp)


class Ramp:
    """The ramp over a training without mmengine's Runner, where :class:`CastlingHook` has it.

    A function of progress alone: a training that is resumed has nothing to restore. Under 10
    iterations the last has not done 0.9 of them, and the ramp ends below 1.

    Example::

        ramp = castling_det.Ramp(model, total=len(loader) * num_epochs)
        for iteration, batch in enumerate(batches):
            ramp.step(iteration)
            ...

    Args:
        model (nn.Module): With :class:`CastlingAttention` in it, wrapped or not; without an
            auxiliary branch, as a softmax twin, there is nothing to set.
        total (float): Iterations of the training.
        end (float): Share of them from which the ramp is 1. Defaults to 0.9.
        curve (str): 'linear', 'cosine', 'step' (a jump at ``end``) or 'constant' (ramp 0
            throughout). Defaults to 'linear'.
        begin (float): Share up to which the ramp is 0. Defaults to 0.

    Raises:
        InputError: For an unknown ``curve``, for ``begin`` not under ``end``, or for no iterations.
    """

    def __init__(
        self,
        model: nn.Module,
        total: float,
        end: float = 0.9,
        curve: str = 'linear',
        begin: float = 0.0,
    ) -> None:
        require_curve(curve, begin, end)
        if total <= 0:
            raise InputError(f'a ramp needs the iterations of the training, not total={total}')
        self.model, self.total = model, total
        self.end, self.curve, self.begin = end, curve, begin

    def at(self, i: float) -> float:
        """The ramp, 0 to 1, where ``i`` iterations are done."""
        return CURVES[self.curve](i / self.total, self.end, self.begin)

    def step(self, i: float) -> float:
        """Set it before a training iteration, ``i`` of which are done, and return it."""
        ramp = self.at(i)
        set_ramp(self.model, ramp)
        return ramp


def set_ramp(model: nn.Module, ramp: float) -> None:
    """Give every auxiliary branch of a model the ramp, 0 to 1."""
    for _, attention in castling_attentions(model):
        attention.ramp = ramp


def require_curve(curve: str, begin: float, end: float) -> None:
    """Raise InputError for an unknown ``curve``, and for ``begin`` not under ``end``."""
    if curve not in CURVES:
        raise InputError(f'ramp: curve is one of {list(CURVES)}, not {curve!r}')
    if not 0 <= begin < end:
        raise InputError(f'ramp: needs 0 <= begin < end, not {begin} and {end}')
