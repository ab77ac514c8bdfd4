"""Exact resumption: what is random follows from the seed and the iteration, not from the past."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, Dataset, Sampler

from castling_det.errors import InputError

_ITERATION, _SAMPLE = 0, 1


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
        loader, stored = runner.train_dataloader, self.stored
        if stored.get('sampler_seed') is not None:
            loader.sampler.seed = stored['sampler_seed']
        sizes = stored.get('input_sizes', [])
        for module, size in zip(_random_resizers(runner), sizes, strict=False):
            module._input_size = size
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return 0
        if stored.get('num_batches') == len(loader):
            return stored['position']
        if runner.iter != runner.epoch * len(loader):
            runner.logger.warning(
                f'Epoch {runner.epoch + 1} starts with its first image: the checkpoint, of '
                f'{stored.get("num_batches", "an unknown number of")} batches an epoch where there '
                f'are now {len(loader)}, does not tell which images it has seen'
            )
        return 0

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
            num_batches=len(loader),
            input_sizes=[module._input_size for module in _random_resizers(runner)],
        )


def _random_resizers(runner: Runner) -> list[torch.nn.Module]:
    """Modules as mmdet's ``BatchSyncRandomResize``, which draws the size of the next batch."""
    return [module for module in runner.model.modules() if hasattr(module, '_input_size')]
