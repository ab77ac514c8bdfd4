"""The end of a training whose loss is no longer a number."""

import math

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from castling_det.errors import InputError


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at the first loss that is NaN or infinite, and never save weights that are.

    It reads the values that mmengine has copied from the device for its log, after the step and
    before any checkpoint, and so costs no synchronisation. The scaler of mixed precision skips
    infinite *gradients* by itself; the loss of such an iteration is finite. Of several processes
    the one whose images are at fault raises; torchrun, or ``srun --kill-on-bad-exit``, then ends
    the others.

    Raises:
        InputError: Names the iteration, the loss terms and the images; or, where a checkpoint would
            be saved, the first parameter that is not finite.
    """

    priority = 'VERY_HIGH'  # and after RuntimeInfoHook, which is registered first

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        terms = []
        for key in outputs:
            value = runner.message_hub.get_scalar(f'train/{key}').current()
            if 'loss' in key and not math.isfinite(value):
                terms.append(f'{key} = {value}')
        if not terms:
            return
        terms = terms[1:] or terms  # the first one is the sum of the others
        raise InputError(
            f'iteration {runner.iter + 1}: {", ".join(terms)} with the images '
            f'{", ".join(_image_paths(data_batch)) or "(no paths given)"}; no checkpoint was saved '
            f'from it: look at these images and boxes, or lower the learning rate, and --resume'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise InputError(
                    f'iteration {checkpoint["meta"]["iter"]}: the parameter {name} is not finite, '
                    f'and no checkpoint is saved: lower the learning rate or clip the gradients, '
                    f'and --resume from the last checkpoint'
                )


def _image_paths(data_batch) -> list[str]:
    """``img_path`` of each sample of a batch in the layout of OpenMMLab."""
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    return [str(sample.img_path) for sample in samples if hasattr(sample, 'img_path')]
