"""Checkpoints that are written whole or not at all, and what a killed training left is mended."""

import operator
import re
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import BaseStorageBackend, LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from castling_det.errors import InputError
from castling_det.output_files import require_writable, write_whole

OUTDATED = 'outdated_ckpts'  # in the message hub: the files that a checkpoint replaces
EARLIER = 'earlier_best_ckpts'  # likewise: those of another training that the first best replaces
MAIN_METRICS = ('mAP', 'mIoU', 'top1')  # how the names of those that count most end
VALIDATED = 'last_validation'  # in the work dir: after which epoch or iteration it was


class _Postponing:
    """A file backend that notes which files are to go, and leaves them."""

    def __init__(self, backend: BaseStorageBackend) -> None:
        self.backend = backend
        self.outdated: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.outdated.append(path)

    rmtree = remove  # of a sharded checkpoint


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, with local files that are never half-written and an oldest that goes last.

    A full disk or a killed process leaves the previous checkpoint, and ``last_checkpoint`` points
    at it. Likewise the best checkpoint (``save_best``) stays until a better one, or a later one
    that is as good, is written. When the training is resumed, files that a killed process had no
    time to remove go, and a validation that it did not end is made. The best checkpoint of an
    earlier training in the same folder goes when this one has its own. With ``save_best='auto'``
    mAP, mIoU or top-1 accuracy chooses the best, or else the first metric, as in mmengine.

    Args:
        Those of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        InputError: If the folder cannot be written, before training starts, or a file cannot; if
            no evaluator measures ``save_best``, after the first validation.
    """

    rule_map: ClassVar[dict] = dict(greater=operator.ge, less=operator.le)

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if isinstance(self.file_backend, LocalBackend) and is_main_process():
            self.backend_args = dict(backend='whole_file')
            require_writable(self.out_dir)
        self.file_backend = _Postponing(self.file_backend)
        if not runner._resume or runner.iter == 0:
            self._find_earlier_best(runner)
            if is_main_process():
                (Path(runner.work_dir) / VALIDATED).unlink(missing_ok=True)
            return
        info = runner.message_hub.runtime_info
        self.last_ckpt = info.get('last_ckpt')  # which is written anew if it turns out the best
        for name in info.get(OUTDATED, []):
            self.file_backend.remove(self._path(name))
        self._remove_outdated(runner)
        if is_main_process():
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
        if self.max_keep_ckpts > 0:
            steps = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
            for old in steps[: -self.max_keep_ckpts]:
                self.file_backend.remove(self._path(self.filename_tmpl.format(old)))
            self.keep_ckpt_ids = deque(steps[-self.max_keep_ckpts :])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        outdated = [Path(path).name for path in self.file_backend.outdated]
        runner.message_hub.update_info(OUTDATED, outdated)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self._path(filename)
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
        self._remove_outdated(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        check_save_best(self.save_best, metrics)
        if self.save_best is not None and 'auto' in self.key_indicators:
            self._choose_metric(runner, list(metrics))
        super()._save_best_checkpoint(runner, metrics)
        if _best(runner):
            earlier = runner.message_hub.runtime_info.get(EARLIER, [])
            self.file_backend.outdated += map(self._path, earlier)
            runner.message_hub.update_info(EARLIER, [])
        self._remove_outdated(runner)

    def _choose_metric(self, runner: Runner, names: list[str]) -> None:
        """Put a name in the place of 'auto'."""
        name = next((each for each in names if each.endswith(MAIN_METRICS)), names[0])
        try:
            self._init_rule(self.rules, [name])
        except ValueError:
            runner.logger.warning(
                f'No best checkpoint is kept, since it is not known whether a high or a low {name} '
                f"is good: set default_hooks.checkpoint.save_best={name!r} and its rule='greater' "
                "or 'less'"
            )
            self.save_best = None

    def _remove_outdated(self, runner: Runner) -> None:
        """Of the best checkpoints, one may have been written anew under its name."""
        paths, self.file_backend.outdated = self.file_backend.outdated, []
        backend = self.file_backend.backend
        for path in set(paths) - set(_best(runner).values()) if is_main_process() else ():
            if backend.isdir(path):
                backend.rmtree(path)
            elif backend.isfile(path):
                backend.remove(path)

    def _find_earlier_best(self, runner: Runner) -> None:
        """Note the best checkpoints of another training, which beside ours would mislead."""
        start = Path(runner._load_from or '').resolve()  # it stays
        names = [
            path.name
            for path in sorted(Path(self.out_dir).glob('best_*.pth'))
            if re.search(r'_(epoch|iter)_\d+\.pth$', path.name) and path.resolve() != start
        ]
        if names and self.save_best is not None:
            runner.message_hub.update_info(EARLIER, names)
            runner.logger.warning(
                f'{self.out_dir} has the best checkpoint of an earlier training, which goes when '
                f'this one has its own: {", ".join(names)}'
            )

    def _find_best(self, runner: Runner) -> None:
        """Look for the best checkpoints in this folder; a score without its file counts no more."""
        info = runner.message_hub.runtime_info
        for key, path in _best(runner).items():
            info[key] = self._path(Path(path).name)
            if not self.file_backend.isfile(info[key]):
                del info[key], info[key.replace('ckpt', 'score', 1)]
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = info.get('best_ckpt')
        else:
            for name in self.key_indicators:
                self.best_ckpt_path_dict[name] = info.get(f'best_ckpt_{name}')

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

    def _path(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)


def _best(runner: Runner) -> dict[str, str]:
    """Paths of the best checkpoints, by their keys in the message hub."""
    info = runner.message_hub.runtime_info
    return {key: path for key, path in info.items() if key.startswith('best_ckpt')}


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
