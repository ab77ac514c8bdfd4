"""What a training or test says of itself: what it is, how far it is, and what has come of it."""

import logging
import os
import shlex
from datetime import timedelta
from numbers import Real
from pathlib import Path

from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from castling_det.progress import Patience


class ConsoleHook(Hook):
    """The lines of a run that are for people.

    First the model and where the log is; between the lines of mmengine's ``LoggerHook``, where it
    would be silent for more than 3 s, how far the run is; after each validation one line, the
    metric and its best value so far, while tables go to the log file alone; and at the end of a
    training the best checkpoint, the pictures, and the command to go on with.

    Args:
        pictures (Path, optional): Folder with pictures of the last validation.
    """

    priority = 95  # after LoggerHook and CheckpointHook, before what may end the training

    def __init__(self, pictures: Path | None = None) -> None:
        self.pictures = pictures
        self.train_patience = self.patience = Patience()
        self.muted: dict[logging.Handler, int] = {}  # and their levels
        self.last: float | None = None  # value of the metric that chooses the best checkpoint

    def before_train(self, runner: Runner) -> None:
        self._introduce(runner, runner.train_dataloader)
        self.train_patience = self.patience = Patience()

    def before_test(self, runner: Runner) -> None:
        self._introduce(runner, runner.test_dataloader)

    def before_val_epoch(self, runner: Runner) -> None:
        self.patience = Patience()

    before_test_epoch = before_val_epoch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self._progress(runner, 'train', batch_idx, runner.iter + 1, runner.max_iters)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        total = len(runner.val_dataloader)
        self._progress(runner, 'val', batch_idx, batch_idx + 1, total)
        if batch_idx + 1 == total:
            self._mute(runner.logger)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        total = len(runner.test_dataloader)
        self._progress(runner, 'test', batch_idx, batch_idx + 1, total)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        for handler, level in self.muted.items():
            handler.setLevel(level)
        self.muted.clear()
        self.patience = self.train_patience
        self.patience.begin()
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        done = f'epoch {runner.epoch}' if by_epoch else f'iteration {runner.iter}'
        chosen, best = _best(runner)
        self.last = metrics.get(chosen)
        numbers = [name for name, value in metrics.items() if isinstance(value, Real)]
        for name in [chosen] if chosen in numbers else numbers[:1]:
            line = f'Validation after {done}: {name} {metrics[name]:.4f}'
            runner.logger.info(line if best is None else f'{line}, best so far {best:.4f}')

    def after_train(self, runner: Runner) -> None:
        info = runner.message_hub.runtime_info
        name, best = _best(runner)
        checkpoint = info.get('best_ckpt', info.get(f'best_ckpt_{name}'))
        lines = [f'Log: {runner.logger.log_file}']
        if self.pictures is not None and self.pictures.is_dir():
            lines.insert(0, f'Pictures of the last validation: {self.pictures}')
        if checkpoint is not None and best is not None:
            line = f'Best checkpoint: {checkpoint}, {name} {best:.4f}'
            if self.last is not None and self.last < best:
                line += f'; the last validation had {self.last:.4f}'
            lines.insert(0, line)
        else:
            checkpoint = info.get('last_ckpt')
            lines.insert(0, f'Last checkpoint: {checkpoint}')
        if checkpoint is not None and runner.cfg.get('test_dataloader'):
            files = shlex.join((os.path.relpath(runner.cfg.filename), str(checkpoint)))
            weights = shlex.quote(str(checkpoint))
            lines.append(f'Next: castling-det test {files}')
            lines.append(
                f'Draw: castling-det predict PHOTOS --checkpoint {weights} --out-dir drawn'
            )
            lines.append(f'Ship it: castling-det export {files} --out shipped/model.onnx')
        runner.logger.info('Training is done\n' + '\n'.join(lines))

    def _introduce(self, runner: Runner, loader: DataLoader) -> None:
        model = getattr(runner.model, 'module', runner.model)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        names = [type(part).__name__ for part in (model, getattr(model, 'backbone', None)) if part]
        classes = getattr(loader.dataset, 'metainfo', {}).get('classes', ())
        runner.logger.info(
            f'{" with ".join(names)}: {parameters / 1e6:.2f} M parameters, {len(classes)} classes\n'
            f'Log: {runner.logger.log_file}'
        )

    def _progress(self, runner: Runner, mode: str, batch_idx: int, done: int, total: int) -> None:
        """Where LoggerHook says nothing, and after this there is more to do."""
        interval = next((h.interval for h in runner.hooks if isinstance(h, LoggerHook)), total)
        if (batch_idx + 1) % interval == 0:
            self.patience.begin()
        elif done < total and self.patience.is_over():
            hub = runner.message_hub
            line = (
                f'{mode} [{done}/{total}]  eta: {timedelta(seconds=round(hub.get_info("eta", 0)))}'
            )
            if mode == 'train' and 'train/loss' in hub.log_scalars:
                line += f'  loss: {hub.get_scalar("train/loss").current():.4f}'
            runner.logger.info(line)

    def _mute(self, logger: logging.Logger) -> None:
        """Until the metrics are computed, let the console have warnings alone."""
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                self.muted[handler] = handler.level
                handler.setLevel(max(handler.level, logging.WARNING))


def _best(runner: Runner) -> tuple[str | None, float | None]:
    """Name and best value of the metric by which the best checkpoint is chosen."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    if hook is None or hook.save_best is None:
        return None, None
    name, info = hook.key_indicators[0], runner.message_hub.runtime_info
    return name, info.get('best_score', info.get(f'best_score_{name}'))
