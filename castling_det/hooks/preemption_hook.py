"""A training that is told to end by SIGTERM saves first."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from castling_det.output_files import write_whole

FILENAME = 'interrupted.pth'


class Preempted(KeyboardInterrupt):
    """The training was told to end, and has saved ``interrupted.pth``."""


class PreemptionHook(Hook):
    """End a training after the iteration in which SIGTERM comes, with a checkpoint to resume from.

    Schedulers (slurm, Kubernetes, torchrun) send it before they take a machine away. The processes
    agree on the iteration; within a validation each ends by itself. ``interrupted.pth`` in the work
    dir is removed when a later checkpoint is there and an epoch, or the training, has ended.

    Raises:
        Preempted: After SIGTERM.
    """

    priority = 'LOWEST'  # all else that belongs to the iteration is done, and saved

    def __init__(self) -> None:
        self.is_told = False
        self.group = None

    def before_run(self, runner: Runner) -> None:
        self.former = signal.signal(signal.SIGTERM, self._note)
        if get_world_size() > 1:
            self.group = torch.distributed.new_group(backend='gloo')  # no waiting for a GPU
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None and loop.dataloader.num_workers > 0:
                loader = loop.dataloader
                loader.worker_init_fn = _OutliveSigterm(loader.worker_init_fn)

    def after_train(self, runner: Runner) -> None:
        signal.signal(signal.SIGTERM, self.former)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if self._are_told():
            self._save(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self.is_told:  # the numbers of batches may differ
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # the weights that are trained, not their average
            self._save(runner, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        path, last = Path(runner.work_dir) / FILENAME, Path(runner.work_dir) / 'last_checkpoint'
        if is_main_process() and last.is_file() and last.read_text() != str(path):
            path.unlink(missing_ok=True)

    def _note(self, signum: int, frame: object) -> None:
        self.is_told = True

    def _are_told(self) -> bool:
        """Whether any process was: of several, all must end after the same iteration."""
        if self.group is None:
            return self.is_told
        flag = torch.tensor(int(self.is_told))
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, self.group)
        return bool(flag)

    def _save(self, runner: Runner, iteration: int) -> None:
        path = Path(runner.work_dir) / FILENAME
        runner.save_checkpoint(
            runner.work_dir,
            FILENAME,
            meta=dict(epoch=runner.epoch, iter=iteration),
            backend_args=dict(backend='whole_file'),
        )
        if is_main_process():
            write_whole(Path(runner.work_dir) / 'last_checkpoint', str(path).encode())
        raise Preempted(f'SIGTERM after {iteration} of {runner.max_iters} iterations')


class _OutliveSigterm:
    """Start of a loading process that ends by a SIGTERM of the training process alone.

    SIGTERM often goes to all processes of a job at once, and the iteration has to end.
    """

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker_id: int) -> None:
        if hasattr(signal, 'sigwaitinfo'):  # not on macOS
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait, daemon=True).start()
        if self.init is not None:
            self.init(worker_id)

    @staticmethod
    def _wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)
