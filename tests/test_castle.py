import pytest
import torch

from castling_det import training_form
from castling_det.models import CastlingLeViT, SelfAttention
from castling_det.models.attention import MaskedSoftmax


def modes(model):
    return [module.training for module in model.modules()]


def test_training_form_runs_aux_in_eval():
    """The outputs are those of training, where nothing but aux depends on the mode."""
    torch.manual_seed(0)
    model, x = SelfAttention(16, 2).eval(), torch.randn(2, 20, 16)
    model.attn.ramp = 0.03
    inference = model(x)
    with training_form(model) as yielded:
        assert yielded is model
        assert not model.training and not model.attn.training
        training = model(x)
    assert (training - inference).abs().max() > 0.01
    assert torch.equal(training, model.train()(x))
    assert torch.equal(inference, model.eval()(x))


def test_training_form_at_ramp_1_is_the_inference_form():
    torch.manual_seed(0)
    model, x = SelfAttention(16, 2).eval(), torch.randn(2, 20, 16)
    model.attn.ramp = 1.0
    inference = model(x)
    with training_form(model):
        assert torch.equal(model(x), inference)


def test_batch_norms_stay_in_eval():
    torch.manual_seed(0)
    model, x = CastlingLeViT('nano').eval(), torch.randn(2, 3, 64, 64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with training_form(model), torch.no_grad():
        branches = [m for m in model.modules() if isinstance(m, MaskedSoftmax)]
        assert len(branches) == 8 and all(branch.training for branch in branches)
        model(x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('prepare', ['eval', 'train', 'mixed'])
@pytest.mark.parametrize('fails', [False, True])
def test_modes_are_restored(prepare, fails):
    """Also after an error; 'mixed' has a frozen stage, whose branches are in eval."""
    model = CastlingLeViT('nano', frozen_stages=1 if prepare == 'mixed' else -1)
    model.train(prepare != 'eval')
    before = modes(model)
    try:
        with training_form(model):
            assert all(m.training for m in model.modules() if isinstance(m, MaskedSoftmax))
            if fails:
                raise KeyError('inside')
    except KeyError:
        assert fails
    assert modes(model) == before


def test_inference_form_has_nothing_to_run():
    torch.manual_seed(0)
    model = SelfAttention(16, 2, attn=dict(type='CastlingAttention', aux=None)).eval()
    x = torch.randn(2, 20, 16)
    inference = model(x)
    with training_form(model):
        assert torch.equal(model(x), inference)


def test_a_branch_alone_is_a_model():
    branch = MaskedSoftmax().eval()
    with training_form(branch):
        assert branch.training
    assert not branch.training
