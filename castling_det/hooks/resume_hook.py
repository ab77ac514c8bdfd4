"""Exact resumption: what is random follows from the seed and the iteration, not from the past."""

import random
import warnings
from collections.abc import Iterator
from copy import deepcopy
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, Dataset, Sampler

from castling_det.errors import InputError

_ITERATION, _SAMPLE = 0, 1
# What a checkpoint stores of the schedule, and its name in the log.
_SCHEDULE = dict(
    batch='images an iteration', num_batches='iterations an epoch', max_iters='iterations in all'
)
_STEPPING = {'last_step', '_global_step', '_last_value'}


def seed_everything(seed: int, rank: int, kind: int, number: int) -> None:
    """Put the generators of python, numpy and torch (CPU and CUDA) where the arguments say.

    Args:
        seed (int): Seed of the training, not negative.
        rank (int): Process of the training, so that each draws numbers of its own.
        kind (int): What is about to draw: a training iteration or the loading of a sample.
        number (int): Which one of that kind, counted over the whole training.
    """
    words = np.random.SeedSequence([seed, rank, kind, number]).generate_state(3)
    for_python, for_numpy, for_torch = words.tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    # torch.manual_seed formats a stack trace for each device that is not in use yet.
    torch.default_generator.manual_seed(for_torch)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(for_torch)


class _NumberedSampler(Sampler):
    """Yields the indices of a sampler with the number of each sample in the training."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.skipped = 0
        self.number = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in islice(self.sampler, self.skipped, None):
            yield index, self.number
            self.number += 1

    def __len__(self) -> int:
        return len(self.sampler)


class _SeededFetch:
    """Loads numbered samples, each seeded by its number in whichever worker it is loaded.

    torch asks a data set for a batch by ``__getitems__`` where it has one.
    """

    def __init__(self, dataset: Dataset, seed: int, rank: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rank = rank

    def __call__(self, numbered: list[tuple[int, int]]) -> list:
        samples = []
        for index, number in numbered:
            seed_everything(self.seed, self.rank, _SAMPLE, number)
            samples.append(self.dataset[index])
        return samples


@HOOKS.register_module()
class ResumeHook(Hook):
    """Make a resumed training repeat the losses of an uninterrupted one.

    Random numbers are seeded before each iteration and before the loading of each sample by
    (seed, rank, number of the iteration or sample). A checkpoint therefore needs no generator
    states, the ranks nothing to gather, and the number of workers and their prefetching change
    nothing. Stored are the seed of the sampler, the position in the epoch, from which an
    epoch-based loop goes on without loading the images before it, and the size to which
    ``BatchSyncRandomResize`` of mmdet resizes the next batch. An iteration-based loop finds its
    position by itself with ``InfiniteSampler``.

    On another number of processes, batch size or data set, the epochs that are done count, and the
    same part of the present one; iterations and learning rate are what they would be there had the
    config been the same from the start. So are the learning rate and its schedule where the config
    has others than the checkpoint. One warning says what differs. Weights, averages and the state
    of the optimizer, weight decay included, always come from the checkpoint.

    Not repeated: transforms that remember earlier images (``CachedMosaic``), a gradient that was
    being accumulated over iterations, and kernels that are not deterministic on a GPU. In the epoch
    that is resumed the log counts batches from the resumption.

    Raises:
        InputError: If the data loader's batch sampler regroups the samples.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}
        self.first_iter = 0

    def before_run(self, runner: Runner) -> None:
        """Remember the schedules of the config, in whose place those of a checkpoint are loaded."""
        if not hasattr(runner.optim_wrapper, 'param_groups'):
            return  # a test, where it is a config or nothing
        schedulers = _flat(runner.param_schedulers)
        names = {'lr', *(scheduler.param_name for scheduler in schedulers)}
        names |= {f'initial_{name}' for name in names}
        self.planned = [deepcopy(scheduler.state_dict()) for scheduler in schedulers]
        self.rates = [
            {name: group[name] for name in names & group.keys()}
            for group in _flat(runner.optim_wrapper.param_groups)
        ]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.stored = checkpoint.get('data_order', {})

    def before_train(self, runner: Runner) -> None:
        dataset, batches = runner.train_dataloader.dataset, runner.train_dataloader.batch_sampler
        if type(batches) is not BatchSampler:
            raise InputError(
                f'ResumeHook cannot count the samples of {type(batches).__name__}: take '
                f'batch_sampler out of train_dataloader, or ResumeHook out of custom_hooks'
            )
        batches.sampler = _NumberedSampler(batches.sampler)
        dataset.__getitems__ = _SeededFetch(dataset, runner.seed, get_rank())
        position = self._restore(runner) if runner.iter > 0 else 0
        batches.sampler.skipped = position * batches.batch_size
        self.first_iter = runner.iter - position

    def _restore(self, runner: Runner) -> int:
        """Take over what the checkpoint stores; returns the batches of the epoch that are done."""
        loader, loop, stored = runner.train_dataloader, runner.train_loop, self.stored
        if stored.get('sampler_seed') is not None:
            loader.sampler.seed = stored['sampler_seed']
        sizes = stored.get('input_sizes', [])
        for module, size in zip(_random_resizers(runner), sizes, strict=False):
            module._input_size = size
        position, recounted = 0, False
        if isinstance(loop, EpochBasedTrainLoop):
            length = stored.get('num_batches', len(loader))
            position = -(-stored.get('position', 0) * len(loader) // length)
            recounted = loop.iter != loop.epoch * len(loader) + position
            loop._iter = loop.epoch * len(loader) + position
        followed = self._follow_config(runner, recounted)
        changes = [
            f'{_SCHEDULE[key]} {stored[key]} -> {value}'
            for key, value in _schedule(runner).items()
            if stored.get(key, value) != value
        ]
        if changes or followed or recounted:
            kept, planned = 'weights', 'learning rate and ramp'
            if _needs_metrics(runner):
                kept, planned = 'weights and learning rate', 'the ramp'
            runner.logger.warning(
                f'Resumed under another schedule ({", ".join(changes) or "learning rate"}): {kept} '
                f'come from the checkpoint, {planned} from the config, as they are there after '
                f'{loop.iter} of {loop.max_iters} iterations'
            )
        if loop.iter >= loop.max_iters:
            runner.logger.warning(
                f'This training is complete: {loop.iter} of {loop.max_iters} iterations are done; '
                'with more of them in train_cfg it would go on'
            )
        return position

    def _follow_config(self, runner: Runner, recounted: bool) -> bool:
        """Put the schedules of the config where the training is, unless those loaded are there.

        What follows from the metrics so far (``ReduceOnPlateauLR``) only the checkpoint knows.
        """
        schedulers = _flat(runner.param_schedulers)
        groups = _flat(runner.optim_wrapper.param_groups)
        loaded = [_static(scheduler.state_dict()) for scheduler in schedulers]
        is_same = loaded == list(map(_static, self.planned)) and (
            list(map(_initial_rate, groups)) == list(map(_initial_rate, self.rates))
        )
        if is_same and not recounted or _needs_metrics(runner):
            return False
        for scheduler, state in zip(schedulers, self.planned, strict=True):
            scheduler.load_state_dict(deepcopy(state))
        for group, values in zip(groups, self.rates, strict=True):
            group.update(values)
        length = len(runner.train_dataloader)
        with warnings.catch_warnings():  # that schedulers step where no optimizer does
            warnings.simplefilter('ignore')
            for iteration in range(1, runner.iter + 1):
                ends_epoch = iteration % length == 0 and iteration // length <= runner.epoch
                for scheduler in schedulers:
                    if ends_epoch or not scheduler.by_epoch:
                        scheduler.step()
        return True

    def before_train_epoch(self, runner: Runner) -> None:
        batches = runner.train_dataloader.batch_sampler
        batches.sampler.number = runner.iter * batches.batch_size

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        seed_everything(runner.seed, get_rank(), _ITERATION, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        runner.train_dataloader.batch_sampler.sampler.skipped = 0
        self.first_iter = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        loader = runner.train_dataloader
        checkpoint['data_order'] = dict(
            sampler_seed=getattr(loader.sampler, 'seed', None),
            position=checkpoint['meta']['iter'] - self.first_iter,
            **_schedule(runner),
            input_sizes=[module._input_size for module in _random_resizers(runner)],
        )


def _schedule(runner: Runner) -> dict[str, int]:
    """The values of :data:`_SCHEDULE`."""
    loader = runner.train_dataloader
    batch = loader.batch_sampler.batch_size * get_world_size()
    return dict(batch=batch, num_batches=len(loader), max_iters=runner.max_iters)


def _flat(parts: dict | list | None) -> list:
    """The lists of several optimizers in one."""
    return list(chain(*parts.values())) if isinstance(parts, dict) else parts or []


def _needs_metrics(runner: Runner) -> bool:
    return any(getattr(each, 'need_val_args', False) for each in _flat(runner.param_schedulers))


def _static(state: dict) -> dict:
    """Of the state of a scheduler, what does not change while it steps."""
    return {key: value for key, value in state.items() if key not in _STEPPING}


def _initial_rate(group: dict) -> float:
    return group.get('initial_lr', group['lr'])


def _random_resizers(runner: Runner) -> list[torch.nn.Module]:
    """Modules as mmdet's ``BatchSyncRandomResize``, which draws the size of the next batch."""
    return [module for module in runner.model.modules() if hasattr(module, '_input_size')]
