"""Whether a checkpoint that is loaded belongs to the model."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.checkpoint import find_latest_checkpoint

from castling_det.checkpoint import fit_weights, weights_of
from castling_det.errors import InputError


def refuse_other_checkpoints(runner: Runner) -> None:
    """Give a Runner :class:`CheckpointFitHook`, unless its config has it in ``custom_hooks``."""
    if not any(isinstance(hook, CheckpointFitHook) for hook in runner.hooks):
        runner.register_hook(CheckpointFitHook())


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare a checkpoint with the model before mmengine loads it, which only warns.

    Averages, a bare state dict and the keys of wrapped models become the ``state_dict`` that
    mmengine and ``EMAHook`` load. To test, and to go on with a training, everything has to fit; a
    training that starts may have other heads and new convolutions of the attention.

    Raises:
        InputError: If the checkpoint does not fit, or holds no training to go on with.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which loads the weights too

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        filename = runner._load_from or find_latest_checkpoint(runner.work_dir)
        lacking = {'meta', 'message_hub', 'optimizer'} - checkpoint.keys()
        if runner._resume and lacking:
            raise InputError(
                f'{filename} holds no training to go on with (no {", ".join(sorted(lacking))}): '
                'start one from its weights by --cfg-options load_from=FILE'
            )
        weights = weights_of(checkpoint, filename)
        strict = runner._resume or not isinstance(runner._train_loop, BaseLoop)
        checkpoint['state_dict'], report = fit_weights(runner.model, weights, filename, strict)
        runner.logger.info(report)
