"""Whether a checkpoint that is loaded belongs to the model."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import find_latest_checkpoint

from castling_det.checkpoint import check_fit
from castling_det.errors import InputError


def refuse_other_checkpoints(runner: Runner) -> None:
    """Give a Runner :class:`CheckpointFitHook`, unless its config has it in ``custom_hooks``."""
    if not any(isinstance(hook, CheckpointFitHook) for hook in runner.hooks):
        runner.register_hook(CheckpointFitHook())


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Count the keys of a checkpoint that fit before mmengine loads it, which only warns.

    A training may start from weights of which some are missing or have another shape, as a head of
    other classes: the log names them. To go on with a training, and to test, all have to fit. A
    file that is a bare state dict becomes the ``state_dict`` that ``EMAHook`` looks for.

    Raises:
        InputError: If no key fits, or not all do and the checkpoint is resumed or tested.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which loads the weights too

    def __init__(self) -> None:
        self.misfit = ''

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        filename = runner._load_from or find_latest_checkpoint(runner.work_dir)
        if 'state_dict' not in checkpoint:
            weights = dict(checkpoint)
            checkpoint.clear()
            checkpoint['state_dict'] = weights
        counts, self.misfit = check_fit(checkpoint['state_dict'], runner.model, filename)
        runner.logger.info(counts)
        if self.misfit and runner._resume:
            raise InputError(self.misfit)
        if self.misfit:
            runner.logger.warning(self.misfit)

    def before_test(self, runner: Runner) -> None:
        if self.misfit and runner.iter == 0:  # else it has been trained since
            raise InputError(self.misfit)
