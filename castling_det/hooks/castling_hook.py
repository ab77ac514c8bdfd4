"""The ramp in mmengine's Runner, and the monitor that watches the masks which it empties."""

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from castling_det.castling import castling_attentions
from castling_det.errors import InputError
from castling_det.ramp import Ramp, require_curve, set_ramp

UNITS = ('share', 'iter', 'epoch')
EMPTY_MEASUREMENTS = 3  # in a row, after which auxiliary branches rest


@HOOKS.register_module()
class CastlingHook(Hook):
    """Set ``ramp`` on every :class:`CastlingAttention` before each training iteration, and log it.

    The ramp is a function of progress alone: epochs and the part of the present one that is done,
    or iterations where the loop counts no epochs. So it goes on where it was when a training is
    resumed on another number of processes, batch size or data set. It never falls: under a longer
    schedule it stays at the checkpoint's ramp, with a warning, until the schedule has come there.
    A probability is never above 1, so at ramp 1 every mask is empty whatever the number of tokens,
    and the last part of the training settles batch-norm statistics on what ships.

    Every ``interval`` iterations the nonzeros of each layer, the share of its softmax entries above
    the threshold, go to the Runner's visualizer (``scalars.json``) as ``nonzeros/LAYER`` beside
    ``ramp``, and their mean to the log as ``nonzeros``; with several processes, those of the first
    one's batch. Checkpoints keep the ramp and the last nonzeros in ``meta['castling']``, from where
    a loaded model gets its ramp back.

    Where three measurements in a row find every mask of every layer and process empty, the branches
    rest, and run in iterations that measure alone, until one finds a mask that is not. The log says
    when they begin to rest and when they stop.

    Args:
        curve (str): 'linear', 'cosine', 'step' (a jump at ``end``) or 'constant' (ramp 0
            throughout: ``begin`` and ``end`` mean nothing). Defaults to 'linear'.
        begin (float): Progress up to which the ramp is 0. Defaults to 0.
        end (float): Progress from which the ramp is 1. Defaults to 0.9.
        unit (str): Unit of ``begin`` and ``end``: 'share' of the training, 'iter' or 'epoch', whose
            fractions count. Defaults to 'share'.
        interval (int): Iterations from one measurement of the nonzeros to the next. Defaults to 50.

    Raises:
        InputError: For an unknown ``curve`` or ``unit``, for ``begin`` not under ``end``, or, when
            training starts, for unit 'epoch' with a loop that counts none.
    """

    def __init__(
        self,
        curve: str = 'linear',
        begin: float = 0.0,
        end: float = 0.9,
        unit: str = 'share',
        interval: int = 50,
    ) -> None:
        require_curve(curve, begin, end)
        if unit not in UNITS:
            raise InputError(f'CastlingHook: unit is one of {list(UNITS)}, not {unit!r}')
        self.curve, self.begin, self.end, self.unit = curve, begin, end, unit
        self.interval = interval
        self.ramp = 0.0
        self.lowest = 0.0  # the ramp of the checkpoint that is resumed
        self.is_ahead = False  # of the config's schedule
        self.nonzeros = {}
        self.num_empty = 0  # measurements in a row that found every mask empty

    def before_train(self, runner: Runner) -> None:
        if self.unit == 'epoch' and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise InputError("CastlingHook: unit='epoch' needs a training loop by epochs")
        last = max(self.lowest, self._ramp_at(runner, runner.max_iters - 1))
        if last < 1 and any(castling_attentions(runner.model)):
            runner.logger.warning(
                f'CastlingHook: the ramp ends at {last:.3g}, so masks may not be empty, and the '
                'inference form differs from what is trained'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        planned = self._ramp_at(runner, _iterations_done(runner, batch_idx))
        if planned < self.lowest and not self.is_ahead:
            runner.logger.warning(
                f'CastlingHook: the ramp was {self.lowest:.3g} in the checkpoint and would be '
                f'{planned:.3g} by the schedule of the config: it stays at {self.lowest:.3g} until '
                'the schedule is there; load_from, instead of --resume, begins it anew'
            )
        self.is_ahead = planned < self.lowest
        self.ramp = max(planned, self.lowest)
        measures = self.every_n_train_iters(runner, self.interval)
        rests = self.num_empty >= EMPTY_MEASUREMENTS and not measures
        set_ramp(runner.model, 1.0 if rests else self.ramp)
        for _, attention in castling_attentions(runner.model):
            attention.aux.nonzeros = None  # of a validation

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None):
        set_ramp(runner.model, self.ramp)  # also where branches rested
        if not self.every_n_train_iters(runner, self.interval):
            return
        self.nonzeros = nonzeros_by_layer(runner.model)
        if not self.nonzeros:
            return
        scalars = {f'nonzeros/{name}': share for name, share in self.nonzeros.items()}
        runner.visualizer.add_scalars({'ramp': self.ramp, **scalars}, step=runner.iter + 1)
        mean = sum(self.nonzeros.values()) / len(self.nonzeros)
        runner.message_hub.update_scalar('train/nonzeros', mean)
        if self.ramp < 1:
            self._count_empty(runner)

    def _count_empty(self, runner: Runner) -> None:
        rested = self.num_empty >= EMPTY_MEASUREMENTS
        largest = torch.tensor(max(self.nonzeros.values()))
        all_reduce(largest, 'max')
        self.num_empty = 0 if largest > 0 else self.num_empty + 1
        if self.num_empty == EMPTY_MEASUREMENTS:
            runner.logger.info(
                f'CastlingHook: every mask was empty in {EMPTY_MEASUREMENTS} measurements in a '
                f'row: auxiliary branches run in one iteration of {self.interval}'
            )
        elif rested and not self.num_empty:
            runner.logger.info(
                'CastlingHook: a mask is no longer empty: auxiliary branches run in every iteration'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if any(castling_attentions(runner.model)):
            checkpoint['meta']['castling'] = dict(
                ramp=self.ramp, nonzeros=self.nonzeros, num_empty=self.num_empty
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        record = checkpoint.get('meta', {}).get('castling')
        if record is None:
            return
        self.ramp, self.nonzeros = record['ramp'], record['nonzeros']
        if runner._resume:
            self.lowest, self.num_empty = self.ramp, record.get('num_empty', 0)
        set_ramp(runner.model, self.ramp)

    def _ramp_at(self, runner: Runner, iteration: int) -> float:
        per_unit = dict(share=runner.max_iters, iter=1, epoch=runner.max_iters / runner.max_epochs)
        ramp = Ramp(runner.model, per_unit[self.unit], self.end, self.curve, self.begin)
        return ramp.at(iteration)


def _iterations_done(runner: Runner, batch_idx: int) -> int:
    """Iterations that a training with this number of batches an epoch would have done by now.

    Within an epoch the iterations of the runner count, which include batches that ResumeHook skips,
    unless they were counted with another number of batches an epoch.
    """
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return runner.iter
    length = len(runner.train_dataloader)
    before = runner.epoch * length
    within = runner.iter - before
    return before + (within if batch_idx <= within < length else batch_idx)


def nonzeros_by_layer(model: nn.Module) -> dict[str, float]:
    """Nonzeros of the last forward; exactly 0 where ramp 1 skipped aux.

    A layer whose branch did not run for another reason (a frozen stage in eval mode) has none.
    """
    shares = {}
    for name, attention in castling_attentions(model):
        if attention.ramp >= 1:
            shares[name] = 0.0
        elif attention.aux.nonzeros is not None:
            shares[name] = attention.aux.nonzeros.item()
    return shares
