"""The start of a training, to see that it runs, and how long and large the whole would be."""

import resource
import sys
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner.amp import autocast
from torch.utils.data import DataLoader

from castling_det.engine.runner_checks import check_runner, single_images_named
from castling_det.errors import InputError
from castling_det.hooks.checkpoint_fit_hook import refuse_other_checkpoints
from castling_det.hooks.gap_hook import evaluate_seen
from castling_det.hooks.safe_checkpoint_hook import check_save_best

ITERATIONS = 2


@dataclass
class DryRun:
    """What a training would take.

    Args:
        device (str): 'cpu', or the name of the GPU.
        num_processes (int): Processes that train together.
        iterations (int): Training iterations in all.
        step_seconds (float): Second step: forward, backward, optimizer, hooks.
        load_seconds (float): Reading and augmenting one batch, in one process.
        num_workers (int): Processes that read.
        val_batches (int): Validation batches in all, over all validations.
        val_seconds (float): One validation batch: prediction and metric, or reading if that takes
            longer.
        memory_bytes (int): Peak so far: allocated on the GPU, else of this process.
    """

    device: str
    num_processes: int
    iterations: int
    step_seconds: float
    load_seconds: float
    num_workers: int
    val_batches: int
    val_seconds: float
    memory_bytes: int

    @property
    def iteration_seconds(self) -> float:
        return seconds_a_batch(self.step_seconds, self.load_seconds, self.num_workers)

    @property
    def total_seconds(self) -> float:
        return self.iterations * self.iteration_seconds + self.val_batches * self.val_seconds

    def report(self) -> str:
        """The same in a few lines."""

        def clock(seconds: float) -> str:
            return str(timedelta(seconds=round(seconds)))

        training = self.iterations * self.iteration_seconds
        validation = self.val_batches * self.val_seconds
        where = 'allocated on the GPU' if self.device != 'cpu' else 'of this process, workers apart'
        return '\n'.join(
            [
                f'device      {self.device}, processes: {self.num_processes}',
                f'training    {self.iterations} iterations, {clock(training)}: a step takes '
                f'{self.step_seconds:.3g} s, reading a batch {self.load_seconds:.3g} s, '
                f'workers: {self.num_workers}',
                f'validation  {self.val_batches} batches, {clock(validation)}: '
                f'{self.val_seconds:.3g} s each',
                f'whole       {clock(self.total_seconds)}, estimated from one iteration and one '
                'validation batch',
                f'memory      {self.memory_bytes / 2**30:.2f} GiB, peak {where}',
            ]
        )


def seconds_a_batch(step_seconds: float, load_seconds: float, num_workers: int) -> float:
    """Workers read while the model computes, so that the slower of both counts."""
    if num_workers == 0:
        return load_seconds + step_seconds
    return max(step_seconds, load_seconds / num_workers)


def dry_run(cfg: Config) -> DryRun:
    """Run two training iterations and one validation batch as the real training would.

    A last batch of a single image, which batch norm may refuse, is tried too, and the metrics are
    computed. Logs go to a temporary folder that is removed; the work dir of the config is left
    alone.

    Args:
        cfg (Config): As for mmengine's Runner.

    Raises:
        InputError: As :func:`check_runner`; if such a batch cannot be trained on, if the evaluator
            fails, or if it does not measure the ``save_best`` of the checkpoints.
    """
    cfg = deepcopy(cfg)
    if 'visualizer' in cfg:
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]  # no remote service hears it
    with TemporaryDirectory() as cfg.work_dir:
        runner = RUNNERS.build(cfg)
        refuse_other_checkpoints(runner)
        check_runner(runner)
        load_seconds = _seconds_to_read(runner.train_loop.dataloader)
        stopwatch = _Stopwatch()
        runner.register_hook(stopwatch, priority='LOWEST')
        with single_images_named():
            with suppress(_Enough):
                runner.train()
            _train_on_last_batch(runner)
        val_batches, val_seconds = _validate(runner)
        return DryRun(
            device=torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu',
            num_processes=runner.world_size,
            iterations=runner.max_iters,
            step_seconds=stopwatch.seconds,
            load_seconds=load_seconds,
            num_workers=runner.train_dataloader.num_workers,
            val_batches=val_batches,
            val_seconds=val_seconds,
            memory_bytes=_peak_memory(),
        )


class _Enough(Exception):
    """Ends the training from within: the loops of mmengine stop at the end of an epoch only."""


class _Stopwatch(Hook):
    """Time the steps, and stop after the last one that is wanted."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.start = _now()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self.seconds = _now() - self.start
        if runner.iter + 1 == ITERATIONS:
            raise _Enough


def _seconds_to_read(loader: DataLoader) -> float:
    """One batch in this process."""
    start = perf_counter()
    for index in range(loader.batch_sampler.batch_size):  # an infinite sampler can be begun once
        loader.dataset[index % len(loader.dataset)]
    return perf_counter() - start


def _train_on_last_batch(runner: Runner) -> None:
    """An iteration on one image, if an epoch ends with one."""
    loader = runner.train_dataloader
    batch_size, size = loader.batch_sampler.batch_size, len(loader.sampler)
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    if not by_epoch or loader.batch_sampler.drop_last or batch_size == 1 or size % batch_size != 1:
        return
    batch = loader.collate_fn([loader.dataset[0]])
    runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)


def _validate(runner: Runner) -> tuple[int, float]:
    """Number of validation batches in the whole training, and the seconds of one."""
    if runner.val_loop is None:
        return 0, 0.0
    runner.model.eval()
    loader, evaluator = runner.val_dataloader, runner.val_loop.evaluator
    batch = next(iter(loader))
    start = _now()
    with torch.no_grad(), autocast(enabled=runner.val_loop.fp16):
        outputs = runner.model.val_step(batch)
    try:
        evaluator.process(data_samples=outputs, data_batch=batch)
        seconds = seconds_a_batch(_now() - start, _seconds_to_read(loader), loader.num_workers)
        image_ids = [getattr(sample, 'img_id', None) for sample in outputs]
        image_ids = sum(all_gather_object(image_ids), [])
        metrics = evaluate_seen(evaluator, image_ids, min(len(loader.dataset), len(image_ids)))
    except (AssertionError, KeyError) as error:  # how metrics of mmdet and mmseg refuse
        raise InputError(f'val_evaluator fails after a batch: {error.args[0]}') from error
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and metrics:
            check_save_best(hook.save_best, metrics)
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    length = runner.max_epochs if by_epoch else runner.max_iters
    return -(-length // runner.val_interval) * len(loader), seconds


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def _now() -> float:
    """The time at which all that was asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()
