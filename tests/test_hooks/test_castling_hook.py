import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from castling_det.hooks import CastlingHook, linear_ramp
from castling_det.models import SelfAttention
from castling_det.models import attention as attention_module


@pytest.mark.parametrize(
    ('progress', 'end', 'ramp'),
    [
        (0.0, 0.9, 0.0),
        (0.45, 0.9, 0.5),
        (0.9, 0.9, 1.0),
        (0.95, 0.9, 1.0),
        (1.0, 0.9, 1.0),
        (0.25, 0.5, 0.5),
        (0.75, 1.0, 0.75),
    ],
)
def test_linear_ramp(progress, end, ramp):
    assert linear_ramp(progress, end) == pytest.approx(ramp, abs=1e-12)


@pytest.mark.parametrize('max_iters', [10, 70, 160_000, 234_567])
def test_ramp_is_exactly_1_for_the_last_tenth(max_iters):
    first = -(-9 * max_iters // 10)
    assert all(linear_ramp(i / max_iters, 0.9) == 1 for i in range(first, max_iters, 7))
    assert linear_ramp((first - 1) / max_iters, 0.9) < 1


class Toy(BaseModel):
    """One castling attention between two linear layers; lists what its branch does."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), SelfAttention(8, 2))
        self.head = nn.Linear(8, 1)

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.inner(torch.stack(inputs))).mean((1, 2))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class ToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(mean=torch.stack(results).mean().item())


class Recorder(Hook):
    """Keeps the ramp of every training iteration, seen after it."""

    priority = 'LOWEST'

    def __init__(self):
        self.ramps = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.ramps[runner.iter] = runner.model.inner[2].attn.ramp


@pytest.fixture
def aux_calls(monkeypatch):
    """Thresholds with which auxiliary branches ran."""
    calls = []
    function = attention_module.masked_softmax_attention

    def record(q, k, v, threshold):
        calls.append(threshold)
        return function(q, k, v, threshold)

    monkeypatch.setattr(attention_module, 'masked_softmax_attention', record)
    return calls


def build_runner(work_dir, by_epoch, hook=None, **config):
    generator = torch.Generator().manual_seed(0)
    dataset = [dict(inputs=torch.randn(6, 4, generator=generator)) for _ in range(10)]
    dataloader = dict(dataset=dataset, batch_size=2, sampler=dict(type='DefaultSampler'))
    if by_epoch:
        train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=1)
    else:
        dataloader['sampler'] = dict(type='InfiniteSampler')
        train_cfg = dict(by_epoch=False, max_iters=20, val_interval=5)
    recorder = Recorder()
    runner = Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=dataloader,
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_dataloader=dict(dataloader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=[ToyMetric()],
        val_cfg=dict(),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', by_epoch=by_epoch, interval=2 if by_epoch else 10
            )
        ),
        custom_hooks=[hook or dict(type='CastlingHook'), dict(type='EMAHook'), recorder],
        experiment_name=f'{work_dir.name}_{len(config)}',
        randomness=dict(seed=0),
        **config,
    )
    return runner, recorder.ramps


def expected_ramps(first, end=0.9):
    return {i: pytest.approx(min(1.0, i / 20 / end)) for i in range(first, 20)}


@pytest.mark.parametrize('by_epoch', [True, False])
def test_ramp_follows_the_curve_and_survives_resume(tmp_path, by_epoch, aux_calls):
    runner, ramps = build_runner(tmp_path, by_epoch)
    runner.train()
    assert ramps == expected_ramps(0)
    assert ramps[18] == ramps[19] == 1
    # Aux ran in the 18 iterations before that, with a rising threshold, and in no validation,
    # neither of the model nor of its average.
    assert aux_calls == [pytest.approx(0.02 + 0.98 * i / 18) for i in range(18)]

    aux_calls.clear()
    path = tmp_path / ('epoch_2.pth' if by_epoch else 'iter_10.pth')
    runner, ramps = build_runner(tmp_path, by_epoch, load_from=str(path), resume=True)
    runner.train()
    assert ramps == expected_ramps(10)
    assert len(aux_calls) == 8


def test_validation_sees_the_inference_form_of_the_average(tmp_path, aux_calls):
    """Also where aux would change the outputs: here the ramp stays near 0."""
    runner, _ = build_runner(tmp_path, True, dict(type='CastlingHook', end=10.0))
    seen = []

    class Check(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            model = runner.model
            inputs = torch.stack(data_batch['inputs'])
            seen.append((model.training, len(aux_calls)))
            with torch.no_grad():
                expected = model.head(model.inner(inputs)).mean((1, 2))
                model.inner[2].attn.aux.train()
                with_aux = model.head(model.inner(inputs)).mean((1, 2))
                model.inner[2].attn.aux.eval()
            assert torch.equal(torch.stack(outputs), expected)
            assert not torch.allclose(with_aux, expected)
            aux_calls.pop()

    runner.register_hook(Check())
    runner.train()
    # Five batches after each epoch, with as many aux calls as training iterations before.
    assert seen == [(False, 5 * epoch) for epoch in (1, 2, 3, 4) for _ in range(5)]


def test_other_end(tmp_path, aux_calls):
    runner, ramps = build_runner(tmp_path, True, dict(type='CastlingHook', end=0.5))
    runner.train()
    assert ramps == expected_ramps(0, end=0.5)
    assert len(aux_calls) == 10


def test_registered_in_the_root_registry():
    assert HOOKS.get('CastlingHook') is CastlingHook


def test_a_ramp_that_ends_at_the_start_is_refused():
    with pytest.raises(ValueError, match='end is a share'):
        CastlingHook(end=0)
