"""Testing a model in its training form."""

from contextlib import ExitStack

from mmengine.hooks import Hook
from mmengine.runner import Runner

from castling_det.castling import castling_attentions, training_form
from castling_det.errors import InputError
from castling_det.ramp import set_ramp


class TrainingFormHook(Hook):
    """Test in the training form, with the ramp of the checkpoint.

    The test loop puts the model into eval mode, so the branches are switched on around each batch.

    Raises:
        InputError: If the model has no auxiliary branch, or the checkpoint no ramp.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not any(castling_attentions(runner.model)):
            raise InputError('--form training: the model has no auxiliary branch')
        record = checkpoint.get('meta', {}).get('castling')
        if record is None:
            raise InputError(
                "--form training: the checkpoint has no meta['castling'] with the ramp"
            )
        set_ramp(runner.model, record['ramp'])
        runner.logger.info(f'training form, at the ramp {record["ramp"]:.3f} of the checkpoint')

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.form = ExitStack()
        self.form.enter_context(training_form(runner.model))

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self.form.close()
