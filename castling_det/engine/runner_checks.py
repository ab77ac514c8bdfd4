"""What can be said against a training when its data loader is there, before its first iteration."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, Runner

from castling_det.configs import type_name
from castling_det.errors import InputError

DECAYS = {'CosineAnnealingLR', 'PolyLR'}  # to the end of a training, where a warm-up ends early


def check_runner(runner: Runner) -> None:
    """Refuse a training without a batch or with an impossible schedule, and warn of an odd one.

    Raises:
        InputError: If `drop_last` leaves no batch, or a scheduler begins where training has ended.
    """
    loader, loop = runner.train_loop.dataloader, runner.train_loop
    if len(loader) == 0:
        raise InputError(
            f'train_dataloader: {len(loader.dataset)} images a process are fewer than a batch of '
            f'{loader.batch_sampler.batch_size}, which drop_last drops: make batch_size smaller'
        )
    epoch = len(loader) if isinstance(loop, EpochBasedTrainLoop) else None
    for warning in schedule_faults(runner.cfg, loop.max_iters, epoch):
        runner.logger.warning(warning)


@contextmanager
def single_images_named() -> Iterator[None]:
    """Say in one sentence that a batch norm cannot train on one value a channel.

    Raises:
        InputError: In place of torch's ValueError.
    """
    try:
        yield
    except ValueError as error:
        if 'Expected more than 1 value per channel' not in str(error):
            raise
        raise InputError(
            'train_dataloader: a batch of a single image, the last one perhaps, gives a batch norm '
            'one value a channel, on which it cannot train: set batch_size=2 or more, and '
            'drop_last=True'
        ) from error


def schedule_faults(cfg: Config, max_iters: int, epoch: int | None) -> Iterator[str]:
    """What of the schedule does not fit the length of the training, as a changed ``max_epochs``.

    Args:
        cfg (Config): With ``param_scheduler`` and ``model``.
        max_iters (int): Iterations of the training.
        epoch (int, optional): Iterations of an epoch; None for a loop that counts none.

    Yields:
        str: A sentence about the learning rate, and one about the assignment of boxes.

    Raises:
        InputError: If a scheduler ends before it begins.
    """
    key, value = ('max_iters', max_iters) if epoch is None else ('max_epochs', max_iters // epoch)
    schedulers = cfg.get('param_scheduler') or []
    ends, decays = {}, {}  # in iterations, by their key
    for index, scheduler in enumerate(schedulers if isinstance(schedulers, list) else [schedulers]):
        path, unit = f'param_scheduler.{index}', 1
        if scheduler.get('by_epoch', True):
            unit = epoch or max_iters  # mmengine takes a loop by iterations for one epoch
        begin, end = scheduler.get('begin', 0), scheduler.get('end', max_iters // unit)
        if begin >= end:
            raise InputError(
                f'{path} ({type_name(scheduler)}) begins at {begin}, and the training ends at '
                f'{end}: make train_cfg.{key} larger, or the warm-up, and this begin, smaller'
            )
        planned = {'end': end, 'T_max': begin + scheduler.get('T_max', end - begin)}
        found = {f'{path}.{name}': planned[name] * unit for name in planned if name in scheduler}
        ends.update(found)
        if type_name(scheduler) in DECAYS:
            decays.update(found)
    too_long = {path: end for path, end in ends.items() if end > max_iters}
    too_short = {} if max([0, *ends.values()]) >= max_iters else decays
    if wrong := too_long or too_short:
        planned = ', '.join(f'{path} after {end}' for path, end in wrong.items())
        yield (
            f'The learning rate is planned for another length, {planned} iterations, where '
            f'train_cfg.{key}={value} makes {max_iters}: change these keys too'
        )
    initial = (cfg.model.get('train_cfg') or {}).get('initial_epoch')
    if epoch is not None and initial is not None and initial >= value:
        yield (
            f'model.train_cfg.initial_epoch={initial} is not reached with train_cfg.max_epochs='
            f'{value}: boxes stay assigned as in the first epochs'
        )
