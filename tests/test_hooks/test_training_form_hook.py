from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS

from castling_det.castling import castling_attentions
from castling_det.hooks.training_form_hook import TrainingFormHook


def runner(attn: str) -> SimpleNamespace:
    backbone = MODELS.build(dict(type='CastlingLeViT', arch='nano', attn=dict(type=attn)))
    return SimpleNamespace(model=backbone.eval(), logger=MMLogger.get_current_instance())


def test_branches_run_during_a_batch_alone_although_the_loop_calls_eval():
    testing, hook = runner('CastlingAttention'), TrainingFormHook()
    for module in testing.model.modules():  # the last norm of a block starts at zero
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    image = torch.rand(1, 3, 64, 64)
    hook.after_load_checkpoint(testing, dict(meta=dict(castling=dict(ramp=0.01, nonzeros={}))))
    assert {attention.ramp for _, attention in castling_attentions(testing.model)} == {0.01}
    with torch.no_grad():
        inference = testing.model(image)[-1]
        hook.before_test_iter(testing, 0)
        training = testing.model(image)[-1]
        hook.after_test_iter(testing, 0)
        assert not torch.allclose(training, inference)
        assert torch.equal(testing.model(image)[-1], inference)


def test_model_without_branches():
    with pytest.raises(ValueError, match='no auxiliary branch'):
        TrainingFormHook().after_load_checkpoint(runner('SoftmaxAttention'), dict())


def test_checkpoint_without_a_ramp():
    with pytest.raises(ValueError, match='with the ramp'):
        TrainingFormHook().after_load_checkpoint(runner('CastlingAttention'), dict(meta={}))
