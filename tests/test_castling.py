from pathlib import Path

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

from castling_det import castle, training_form
from castling_det.castling import drop_aux
from castling_det.models import CastlingAttention, CastlingLeViT, SelfAttention
from castling_det.models.attention import MaskedSoftmax

CONFIGS = Path(__file__).parents[1] / 'configs'
DEMO = 'castling-picodet_levit-nano_1xb16-8e_shapes-64x512'


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


def detector():
    """A nano detector with random statistics in every batch norm, in eval mode."""
    cfg = Config.fromfile(CONFIGS / f'castling_picodet/{DEMO}.py')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    return randomised(model)


def randomised(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


def flat(out):
    return torch.cat([x.flatten() for x in tree_leaves(out)])


def wrapped_plain(model):
    return model


def wrapped_averaged(model):
    return AveragedModel(model)


def wrapped_ema(model):
    return ExponentialMovingAverage(model)


def wrapped_parallel(model):
    return nn.DataParallel(model)


def wrapped_compiled(model):
    return torch.compile(model, backend='eager')


@pytest.mark.parametrize('build', [detector, lambda: randomised(CastlingLeViT('nano'))])
def test_castle_changes_no_key_and_no_output(build):
    model, x = build(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        before, keys = flat(model(x)), list(model.state_dict())
        parameters = list(map(id, model.parameters()))
        assert castle(model) is model
        assert not any(isinstance(module, MaskedSoftmax) for module in model.modules())
        assert torch.equal(flat(model(x)), before)
        with training_form(model):
            assert torch.equal(flat(model(x)), before)
        assert list(model.state_dict()) == keys
        assert list(map(id, model.parameters())) == parameters
        modules = list(model.modules())
        assert castle(model) is model
        assert list(model.modules()) == modules
        assert torch.equal(flat(model(x)), before)


@pytest.mark.parametrize(
    'wrap',
    [wrapped_plain, wrapped_averaged, wrapped_ema, wrapped_parallel, wrapped_compiled],
    ids=lambda wrap: wrap.__name__,
)
def test_castle_under_any_wrapper(wrap):
    """Also after a first run, which a compiled model keeps; training then runs no aux either."""
    torch.manual_seed(0)
    model, x = (
        wrap(nn.Sequential(SelfAttention(16, 2), SelfAttention(16, 2))),
        torch.randn(2, 8, 16),
    )
    with_aux, keys = model.train()(x), list(model.state_dict())
    inference = model.eval()(x)
    assert (with_aux - inference).abs().max() > 1e-3
    assert castle(model) is model
    assert list(model.state_dict()) == keys
    assert torch.equal(model(x), inference)
    assert torch.equal(model.train()(x), inference)


def test_castle_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        model, x = MMDistributedDataParallel(SelfAttention(16, 2)), torch.randn(2, 8, 16)
        inference = model.eval()(x)
        assert torch.equal(castle(model).train()(x), inference)
    finally:
        torch.distributed.destroy_process_group()


def test_training_at_ramp_1_is_training_castled():
    """In training mode, in value and gradient, with batch norms at work."""
    outs, gradients = [], []
    for prepare in ('ramp 1', 'castled', 'ramp 0'):
        torch.manual_seed(0)
        model, x = CastlingLeViT('nano').train(), torch.randn(2, 3, 64, 96)
        for module in model.modules():
            if isinstance(module, CastlingAttention):
                module.ramp = 1.0 if prepare == 'ramp 1' else 0.0
            elif isinstance(module, nn.BatchNorm1d):
                nn.init.ones_(module.weight)  # the last one of a residual starts at zero
        if prepare == 'castled':
            castle(model)
        outs.append(flat(model(x)))
        outs[-1].square().mean().backward()
        gradients.append(flat([p.grad for p in model.parameters()]))
    assert torch.equal(outs[0], outs[1]) and torch.equal(gradients[0], gradients[1])
    assert (outs[0] - outs[2]).abs().max() > 0.1


def test_castle_takes_a_checkpoint_of_either_form():
    training, castled = CastlingLeViT('nano'), castle(CastlingLeViT('nano'))
    castled.load_state_dict(training.state_dict(), strict=True)
    training.load_state_dict(castled.state_dict(), strict=True)


def test_tools_that_look_for_switch_to_deploy():
    """They call it on every module that has it: timm's and mmpretrain's do."""
    model = SelfAttention(16, 2)
    for module in model.modules():
        if hasattr(module, 'switch_to_deploy'):
            module.switch_to_deploy()
    assert model.attn.aux is None


@pytest.mark.parametrize(
    'model', [nn.Linear(2, 2), SelfAttention(16, 2, attn=dict(type='SoftmaxAttention'))]
)
def test_nothing_to_castle(model):
    with pytest.raises(ValueError, match=f'{type(model).__name__} has no CastlingAttention'):
        castle(model)


@pytest.mark.parametrize('build', [detector, lambda: randomised(CastlingLeViT('nano'))])
def test_fold_bn(build):
    """No batch norm is left, and outputs are those of before to 1e-4; twice is once."""
    model, x = build(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        before = flat(model(x))
        assert any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
        assert castle(model, fold_bn=True) is model
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        torch.testing.assert_close(flat(model(x)), before, rtol=1e-4, atol=1e-4)
        modules = list(model.modules())
        assert list(castle(model, fold_bn=True).modules()) == modules


def test_fold_bn_where_a_convolution_is_shared_or_the_norm_is_first():
    """RTMDet's levels share convolutions under own norms; a norm first, and a group norm, stay."""
    norm_cfg = dict(type='BN')
    shared = [ConvModule(4, 4, 3, norm_cfg=norm_cfg) for _ in range(2)]
    shared[1].conv = shared[0].conv
    first = ConvModule(4, 4, 3, norm_cfg=norm_cfg, order=('norm', 'conv', 'act'))
    group = ConvModule(4, 4, 3, norm_cfg=dict(type='GN', num_groups=2))
    convs, x = randomised(nn.ModuleList([*shared, first, group])), torch.randn(2, 4, 9, 9)
    model = nn.ModuleList([convs, SelfAttention(16, 2)]).eval()
    with torch.no_grad():
        before = [conv(x) for conv in convs]
        castle(model, fold_bn=True)
        for conv, expected in zip(convs, before, strict=True):
            torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-4)
    assert not shared[0].norm.state_dict() and not shared[1].norm.state_dict()
    assert isinstance(first.norm, nn.BatchNorm2d) and isinstance(group.norm, nn.GroupNorm)


def test_fold_bn_is_refused_in_training():
    model = SelfAttention(16, 2).train()
    with pytest.raises(ValueError, match='eval mode'):
        castle(model, fold_bn=True)
    assert model.attn.aux is not None


@pytest.mark.parametrize(('ramp', 'warns'), [(0.9, True), (1.0, False)])
def test_castling_before_the_end_of_the_ramp_is_said_once_with_the_figure(ramp, warns, monkeypatch):
    said = []
    monkeypatch.setattr('castling_det.castling.print_log', lambda text, **_: said.append(text))
    model = nn.Sequential(SelfAttention(8, 2), SelfAttention(8, 2))
    model[0].attn.ramp, model[1].attn.ramp = 1.0, ramp
    for _ in range(2):
        castle(model)
    assert len(said) == warns and all('the ramp is 0.9, not 1' in text for text in said)


def test_models_that_nobody_trained_lose_aux_without_a_word(monkeypatch):
    monkeypatch.setattr('castling_det.castling.print_log', lambda *_, **__: pytest.fail('said'))
    assert drop_aux(SelfAttention(8, 2)).attn.aux is None
