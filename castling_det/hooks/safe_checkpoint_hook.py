"""Checkpoints that are written whole or not at all, and what a killed training left is mended."""

from collections import deque
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from castling_det.checkpoint import require_writable, write_whole
from castling_det.errors import InputError

OUTDATED = 'outdated_ckpts'  # in the message hub: the files that a checkpoint replaces
VALIDATED = 'last_validation'  # in the work dir: after which epoch or iteration it was


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, with local files that are never half-written and an oldest that goes last.

    A full disk or a killed process leaves the previous checkpoint, and ``last_checkpoint`` points
    at it. Likewise the best checkpoint (``save_best``) stays until a better one is written. When
    the training is resumed, files that a killed process had no time to remove go, and a validation
    that it did not end is made.

    Args:
        Those of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        InputError: If the folder cannot be written, before training starts, or a file cannot; if
            no evaluator measures ``save_best``, after the first validation.
    """

    former_best: dict[str, str | None] = {}

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend) and is_main_process():
            self.backend_args = dict(backend='whole_file')
            require_writable(self.out_dir)
        if not runner._resume or runner.iter == 0:
            return
        if is_main_process():
            self._remove(runner.message_hub.runtime_info.get(OUTDATED, []))
            for folder in {Path(self.out_dir), Path(runner.work_dir)}:
                for unfinished in folder.glob('.unfinished-*'):
                    unfinished.unlink()
        if self.save_best is not None:
            self._find_best(runner)
        if self._lacks_validation(runner):
            runner.logger.info('The validation of this checkpoint did not end, and is made now')
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        super().after_val_epoch(runner, metrics)
        if runner.iter > 0 and is_main_process():
            by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
            done = runner.epoch if by_epoch else runner.iter
            write_whole(Path(runner.work_dir) / VALIDATED, str(done).encode())

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write the checkpoint, then point at it, then remove what is outdated."""
        outdated = self._outdated_best()
        if self.max_keep_ckpts > 0:
            steps = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
            outdated += [self.filename_tmpl.format(old) for old in steps[: -self.max_keep_ckpts]]
            self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts :])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        runner.message_hub.update_info(OUTDATED, outdated)
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
        if is_main_process():
            write_whole(Path(runner.work_dir) / 'last_checkpoint', str(self.last_ckpt).encode())
            self._remove(outdated)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Let mmengine write the best checkpoint, and remove the one before only then."""
        if self.save_best is None:
            return
        check_save_best(self.save_best, metrics)
        self.former_best = self._best()
        self._set_best(dict.fromkeys(self.former_best))
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process() and self.last_ckpt is None:  # else it went with the checkpoint
            self._remove(self._outdated_best())
        best = self._best()
        self._set_best({key: best[key] or self.former_best[key] for key in best})
        self.former_best = {}

    def _outdated_best(self) -> list[str]:
        """File names of the best checkpoints that this validation has replaced."""
        best = self._best() if self.former_best else {}
        pairs = [(self.former_best[key], path) for key, path in best.items()]
        return [Path(old).name for old, new in pairs if old and new and old != new]

    def _best(self) -> dict[str, str | None]:
        """Paths of the best checkpoints, by the ending of their entries in the message hub."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return {f'_{key}': self.best_ckpt_path_dict.get(key) for key in self.key_indicators}

    def _set_best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = {key[1:]: path for key, path in paths.items()}

    def _find_best(self, runner: Runner) -> None:
        """Look for the best checkpoints in this folder; a score without its file counts no more."""
        paths = {
            key: path and self.file_backend.join_path(self.out_dir, Path(path).name)
            for key, path in self._best().items()
        }
        for key, path in paths.items():
            if not path or not self.file_backend.isfile(path):
                paths[key] = None
                for name in ('best_score', 'best_ckpt'):
                    runner.message_hub.runtime_info.pop(name + key, None)
        self._set_best(paths)

    def _lacks_validation(self, runner: Runner) -> bool:
        """Whether the loop would have validated here, and :data:`VALIDATED` does not tell of it."""
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            done, last = loop.epoch, loop.max_epochs
            is_between = loop.iter == loop.epoch * len(runner.train_dataloader)
        else:
            done, last, is_between = loop.iter, loop.max_iters, True
        loop._decide_current_val_interval()
        is_due = is_between and done >= loop.val_begin
        if runner.val_loop is None or not is_due or (done % loop.val_interval and done != last):
            return False
        note = Path(runner.work_dir) / VALIDATED
        validated = [note.read_text() if is_main_process() and note.is_file() else '']
        broadcast_object_list(validated)
        return not validated[0].isdigit() or int(validated[0]) < done

    def _remove(self, names: list[str]) -> None:
        for name in names:
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isdir(path):  # a sharded checkpoint
                self.file_backend.rmtree(path)
            elif self.file_backend.isfile(path):
                self.file_backend.remove(path)


def check_save_best(names: list[str] | None, metrics: dict[str, float]) -> None:
    """Refuse a best checkpoint by a metric that is not measured.

    Raises:
        InputError: With the name, and those that there are.
    """
    for name in names or ():
        if name != 'auto' and name not in metrics:
            raise InputError(
                f'default_hooks.checkpoint.save_best is {name!r}, which no evaluator measures: '
                f'take one of {", ".join(metrics)}'
            )
