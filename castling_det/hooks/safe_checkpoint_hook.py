"""Checkpoints that are written whole or not at all."""

from collections import deque
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from castling_det.checkpoint import require_writable, write_whole


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, with local files that are never half-written and an oldest that goes last.

    A full disk or a killed process leaves the previous checkpoint, and ``last_checkpoint`` points
    at it. The best checkpoint (``save_best``) is removed before a better one is written, as in
    mmengine; the one to resume from is not.

    Args:
        Those of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        InputError: If the folder cannot be written, before training starts, or a file cannot.
    """

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend) and is_main_process():
            self.backend_args = dict(backend='whole_file')
            require_writable(self.out_dir)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write the checkpoint, then point at it, then remove what is outdated."""
        outdated = []
        if self.max_keep_ckpts > 0:
            steps = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
            outdated = steps[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts :])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if not is_main_process():
            return
        write_whole(Path(runner.work_dir) / 'last_checkpoint', str(self.last_ckpt).encode())
        for step in outdated:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
            if self.file_backend.isdir(path):  # a sharded checkpoint
                self.file_backend.rmtree(path)
            elif self.file_backend.isfile(path):
                self.file_backend.remove(path)
