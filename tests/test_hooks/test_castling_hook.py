import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch._dynamo.testing import CompileCounter

from castling_det.castling import training_form
from castling_det.checkpoint import read_checkpoint
from castling_det.hooks import CastlingHook
from castling_det.hooks.castling_hook import nonzeros_by_layer
from castling_det.models import CastlingLeViT, SelfAttention
from castling_det.models import attention as attention_module

LAYER = 'inner.2.attn'


def sharpened(block):
    """Weights that give softmax some large entries, so that masks are neither full nor empty."""
    nn.init.normal_(block.qkv.weight)
    return block


class Toy(BaseModel):
    """One castling attention among linear layers and a batch norm."""

    def __init__(self, attn=dict(type='CastlingAttention'), dtype=None):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(6), sharpened(SelfAttention(8, 2, attn=attn))
        )
        self.head = nn.Linear(8, 1)
        self.dtype = dtype

    def forward(self, inputs, mode='tensor'):
        with torch.autocast('cpu', self.dtype, enabled=self.dtype is not None):
            out = self.head(self.inner(torch.stack(inputs))).mean((1, 2))
        return dict(loss=out.float().square().mean()) if mode == 'loss' else list(out)


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
        calls.append(float(threshold))
        return function(q, k, v, threshold)

    monkeypatch.setattr(attention_module, 'masked_softmax_attention', record)
    return calls


def build_runner(
    work_dir, by_epoch, hook=None, model=None, optim=None, custom=(), batch_size=2, **config
):
    """20 iterations, as 4 epochs of 5 or as they are, with a validation every 5."""
    generator = torch.Generator().manual_seed(0)
    dataset = [dict(inputs=torch.randn(6, 4, generator=generator)) for _ in range(10)]
    in_order = dict(type='DefaultSampler', shuffle=False)
    val_dataloader = dict(dataset=dataset, batch_size=2, sampler=in_order)
    train_dataloader = dict(val_dataloader, batch_size=batch_size)
    if by_epoch:
        train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=1)
    else:
        train_dataloader = dict(val_dataloader, sampler=dict(type='InfiniteSampler', shuffle=False))
        train_cfg = dict(by_epoch=False, max_iters=20, val_interval=5)
    recorder = Recorder()
    torch.manual_seed(0)
    runner = Runner(
        Toy() if model is None else model,
        work_dir=str(work_dir),
        train_dataloader=train_dataloader,
        train_cfg=config.pop('train_cfg', train_cfg),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), **(optim or {})),
        val_dataloader=val_dataloader,
        val_evaluator=[ToyMetric()],
        val_cfg=dict(),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=5),
            checkpoint=dict(
                type='CheckpointHook', by_epoch=by_epoch, interval=2 if by_epoch else 10
            ),
        ),
        custom_hooks=[
            hook or dict(type='CastlingHook', interval=5),
            dict(type='EMAHook', momentum=0.3, update_buffers=True),
            recorder,
            *custom,
        ],
        experiment_name=f'{work_dir.name}_{len(list(work_dir.iterdir()))}',
        randomness=dict(seed=0),
        **config,
    )
    return runner, recorder.ramps


def expected_ramps(first, end=0.9, begin=0.0):
    return {
        i: pytest.approx(min(1.0, max(0.0, (i / 20 - begin) / (end - begin))))
        for i in range(first, 20)
    }


def scalars(runner):
    """The lines of scalars.json that tell nonzeros by layer, by iteration."""
    text = Path(runner.log_dir, 'vis_data', 'scalars.json').read_text()
    lines = map(json.loads, text.splitlines())
    return {line['step']: line for line in lines if f'nonzeros/{LAYER}' in line}


def log(runner):
    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


@pytest.mark.parametrize('by_epoch', [True, False])
def test_ramp_follows_the_curve_and_survives_resume(tmp_path, by_epoch, aux_calls):
    runner, ramps = build_runner(tmp_path, by_epoch)
    runner.train()
    assert ramps == expected_ramps(0)
    assert ramps[18] == ramps[19] == 1
    # Aux ran in the 18 iterations before that, with a rising threshold, and in no validation,
    # neither of the model nor of its average.
    assert aux_calls == [pytest.approx(0.02 + 0.98 * i / 18) for i in range(18)]
    whole = runner.model.state_dict()

    aux_calls.clear()
    path = tmp_path / ('epoch_2.pth' if by_epoch else 'iter_10.pth')
    runner, ramps = build_runner(tmp_path, by_epoch, load_from=str(path), resume=True)
    runner.train()
    assert ramps == expected_ramps(10)
    assert aux_calls == [pytest.approx(0.02 + 0.98 * i / 18) for i in range(10, 18)]
    resumed = runner.model.state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


@pytest.mark.parametrize(
    ('hook', 'by_epoch', 'begin', 'end'),
    [
        (dict(end=0.5), True, 0.0, 0.5),
        (dict(begin=0.2, end=0.7), False, 0.2, 0.7),
        (dict(unit='iter', begin=3, end=13), True, 0.15, 0.65),
        (dict(unit='iter', end=13), False, 0.0, 0.65),
        (dict(unit='epoch', begin=0.5, end=3), True, 0.125, 0.75),
    ],
)
def test_begin_and_end_in_every_unit(tmp_path, hook, by_epoch, begin, end):
    runner, ramps = build_runner(tmp_path, by_epoch, dict(type='CastlingHook', **hook))
    runner.train()
    assert ramps == expected_ramps(0, end, begin)


def test_averages_never_matter(tmp_path):
    """EMAHook swaps parameters and buffers by position: the ramp is neither."""
    runner, _ = build_runner(tmp_path, True)
    attn = runner.model.inner[2].attn
    ramps = []

    class Check(Hook):
        priority = 'VERY_LOW'

        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            ramps.append(attn.ramp)

    runner.register_hook(Check())
    runner.train()
    last_of_epoch = [4 / 18, 9 / 18, 14 / 18, 1]
    assert ramps == [pytest.approx(ramp) for ramp in last_of_epoch for _ in range(5)]
    assert not list(attn.buffers()) and list(attn.state_dict()) == ['conv.weight']
    assert copy.deepcopy(attn).ramp == 1


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


def test_gradient_accumulation(tmp_path, aux_calls):
    """The ramp counts iterations, not updates; the last updates see no aux."""
    runner, ramps = build_runner(tmp_path, False, optim=dict(accumulative_counts=2))
    runner.train()
    assert ramps == expected_ramps(0)
    assert len(aux_calls) == 18


def test_autocast(tmp_path, aux_calls):
    """In bfloat16 thresholds and nonzeros keep their precision."""
    runner, _ = build_runner(tmp_path, True, model=Toy(dtype=torch.bfloat16))
    runner.train()
    assert aux_calls == [pytest.approx(0.02 + 0.98 * i / 18) for i in range(18)]
    shares = [line[f'nonzeros/{LAYER}'] for line in scalars(runner).values()]
    assert shares[0] > shares[1] > shares[-1] == 0
    assert shares[0] == pytest.approx(round(shares[0] * 144) / 144)  # 2 x 2 heads x 6 x 6 entries
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())


def test_distributed(tmp_path):
    """The wrapped model's ramp is set, measured and named as without the wrapper."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        model = MMDistributedDataParallel(Toy())
        runner = SimpleNamespace(model=model, iter=9, max_iters=20, max_epochs=4, train_loop=None)
        hook = CastlingHook(interval=10)
        hook.before_train_iter(runner, 9)
        inputs = [torch.randn(6, 4) for _ in range(2)]
        model(inputs, mode='loss')['loss'].backward()
        logged = {}
        runner.visualizer = SimpleNamespace(add_scalars=lambda new, step: logged.update(new))
        runner.message_hub = SimpleNamespace(update_scalar=logged.__setitem__)
        hook.after_train_iter(runner, 9)
    finally:
        torch.distributed.destroy_process_group()
    assert logged.pop('ramp') == model.module.inner[2].attn.ramp == 0.5
    assert list(logged) == [f'nonzeros/{LAYER}', 'train/nonzeros']
    assert 0 < logged['train/nonzeros'] < 1


@pytest.mark.parametrize('dynamic', [None, False])
def test_compiled_once_for_all_ramps(dynamic):
    """One graph with aux and one without; not one for each threshold."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(sharpened(SelfAttention(8, 2)), sharpened(SelfAttention(8, 2)))
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=dynamic)
    hook, x = CastlingHook(), torch.randn(2, 12, 8)
    runner = SimpleNamespace(
        model=compiled, max_iters=40, max_epochs=1, train_loop=None, visualizer=None
    )
    nonzeros = []
    for runner.iter in range(40):
        hook.before_train_iter(runner, runner.iter)
        out = compiled(x)
        nonzeros.append(nonzeros_by_layer(compiled))
        assert torch.allclose(out, model(x), atol=1e-6)
        assert nonzeros[-1] == nonzeros_by_layer(model)
        out.sum().backward()
    torch._dynamo.reset()
    assert counter.frame_count == 2
    assert list(nonzeros[0]) == ['0.attn', '1.attn']
    assert nonzeros[0]['1.attn'] > nonzeros[8]['1.attn'] > nonzeros[36]['1.attn'] == 0


def test_nonzeros_are_logged_by_layer(tmp_path):
    """As a loop over q and k counts them; 0 at ramp 1; every 5 iterations and no other."""
    runner, _ = build_runner(tmp_path, True)
    expected = {}

    def count(attn, args):
        if runner.model.training:
            q, k = args[:2]
            p = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
            threshold = 0.02 + 0.98 * min(1.0, runner.iter / 18)
            expected[runner.iter + 1] = (p > threshold).double().mean().item()

    runner.model.inner[2].attn.register_forward_pre_hook(count)
    runner.train()
    logged = scalars(runner)
    assert list(logged) == [5, 10, 15, 20]
    for step, line in logged.items():
        assert line[f'nonzeros/{LAYER}'] == pytest.approx(expected[step], abs=1e-7)
        assert line['ramp'] == pytest.approx(min(1.0, (step - 1) / 18))
    assert logged[5][f'nonzeros/{LAYER}'] > logged[20][f'nonzeros/{LAYER}'] == 0
    assert 'nonzeros: 0.0000' in log(runner)


def test_frozen_layers_have_no_nonzeros():
    """Nor those of a validation with aux."""
    backbone = CastlingLeViT('nano', out_indices=(1, 2), frozen_stages=1).train()
    runner = SimpleNamespace(model=backbone, iter=0, max_iters=20, max_epochs=1, train_loop=None)
    hook = CastlingHook(interval=1)
    with training_form(backbone):
        backbone(torch.randn(2, 3, 64, 64))
    hook.before_train_iter(runner, 0)
    backbone(torch.randn(2, 3, 64, 64))
    runner.visualizer = SimpleNamespace(add_scalars=lambda scalars, step: None)
    runner.message_hub = SimpleNamespace(update_scalar=lambda key, value: None)
    hook.after_train_iter(runner, 0)
    assert {name.split('.')[1] for name in hook.nonzeros} == {'1'}


def test_checkpoint_tells_the_ramp_and_the_nonzeros(tmp_path):
    runner, _ = build_runner(tmp_path, True)
    runner.train()
    record = read_checkpoint(tmp_path / 'epoch_2.pth')['meta']['castling']
    assert record['ramp'] == pytest.approx(9 / 18)
    assert record['nonzeros'] == {LAYER: scalars(runner)[10][f'nonzeros/{LAYER}']}
    assert read_checkpoint(tmp_path / 'epoch_4.pth')['meta']['castling']['ramp'] == 1
    runner, _ = build_runner(tmp_path, True, load_from=str(tmp_path / 'epoch_2.pth'))
    runner.val()
    assert runner.model.inner[2].attn.ramp == pytest.approx(9 / 18)


class ThresholdFalls(Hook):
    """The threshold of the toy, 1 until an iteration and then 0.02."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.inner[2].attn.aux.threshold = 0.02 if runner.iter >= self.at else 1.0


@pytest.mark.parametrize('by_epoch', [True, False])
def test_branches_rest_while_masks_are_empty(tmp_path, by_epoch, aux_calls):
    """Measured in every second iteration; resumed while they rest; the ramp is never touched."""
    hook = dict(type='CastlingHook', curve='constant', interval=2)
    runner, ramps = build_runner(tmp_path, by_epoch, hook, custom=[ThresholdFalls(at=12)])
    runner.train()
    assert ramps == dict.fromkeys(range(20), 0.0)
    # Empty in the 2nd, 4th and 6th; from there on the 8th, ..., 14th alone; then again in each.
    assert aux_calls == [1.0] * 6 + [1.0] * 3 + [0.02] + [0.02] * 6
    assert list(scalars(runner)) == list(range(2, 21, 2))
    assert log(runner).count('in a row: auxiliary branches run in one iteration of 2') == 1
    assert log(runner).count('a mask is no longer empty') == 1
    whole = runner.model.state_dict()

    aux_calls.clear()
    path = tmp_path / ('epoch_2.pth' if by_epoch else 'iter_10.pth')
    runner, _ = build_runner(
        tmp_path, by_epoch, hook, custom=[ThresholdFalls(12)], load_from=str(path), resume=True
    )
    runner.train()
    assert aux_calls == [1.0] + [0.02] * 7
    resumed = runner.model.state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


@pytest.mark.parametrize('attn', ['SoftmaxAttention', 'inference form'])
def test_nothing_to_do_without_aux(tmp_path, attn):
    attn = dict(type=attn)
    if attn['type'] == 'inference form':
        attn = dict(type='CastlingAttention', aux=None)
    runner, _ = build_runner(
        tmp_path, True, model=Toy(attn), hook=dict(type='CastlingHook', curve='constant')
    )
    if attn['type'] == 'SoftmaxAttention':
        runner.model.inner[2].attn.ramp = None  # what the recorder reads
    runner.train()
    assert not scalars(runner)
    assert 'castling' not in read_checkpoint(tmp_path / 'epoch_4.pth')['meta']
    assert 'ramp ends at' not in log(runner)


@pytest.mark.parametrize('hook', [dict(curve='constant'), dict(unit='epoch', end=4)])
def test_a_ramp_that_does_not_reach_1_is_told(tmp_path, hook):
    runner, _ = build_runner(tmp_path, True, dict(type='CastlingHook', **hook))
    runner.train()
    assert f'ramp ends at {0 if "curve" in hook else 0.95}, so masks' in log(runner)


@pytest.mark.parametrize(('batch_size', 'length'), [(1, 10), (5, 2)])
def test_ramp_goes_on_with_another_batch_size(tmp_path, batch_size, length):
    """As with another number of processes: 5 iterations an epoch before the checkpoint."""
    runner, _ = build_runner(tmp_path, True)
    runner.train()
    path = str(tmp_path / 'epoch_2.pth')
    config = dict(load_from=path, resume=True, batch_size=batch_size)
    runner, ramps = build_runner(tmp_path, True, **config)
    runner.train()
    expected = [min(1.0, i / (4 * length * 0.9)) for i in range(2 * length, 4 * length)]
    assert list(ramps.values()) == pytest.approx(expected)
    assert ('ramp ends at' in log(runner)) == (expected[-1] < 1)


def test_ramp_never_falls(tmp_path):
    """A training whose masks were empty goes on for twice as long, and from its weights alone."""
    runner, _ = build_runner(tmp_path, True)
    runner.train()
    path = str(tmp_path / 'epoch_4.pth')
    longer = dict(by_epoch=True, max_epochs=8, val_interval=8)
    runner, ramps = build_runner(tmp_path, True, load_from=path, resume=True, train_cfg=longer)
    runner.train()
    assert len(ramps) == 20 and set(ramps.values()) == {1.0}
    assert log(runner).count('the ramp was 1 in the checkpoint and would be 0.556 by the') == 1
    runner, ramps = build_runner(tmp_path, True, load_from=path)
    runner.train()
    assert ramps == expected_ramps(0)


def test_registered_in_the_root_registry():
    assert HOOKS.get('CastlingHook') is CastlingHook


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(end=0), 'begin < end'),
        (dict(begin=0.5, end=0.5), 'begin < end, not 0.5 and 0.5'),
        (dict(begin=-1), 'begin < end'),
        (dict(curve='quadratic'), "curve is one of .*'cosine'.*, not 'quadratic'"),
        (dict(unit='epochs'), "unit is one of .*, not 'epochs'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CastlingHook(**arguments)


def test_epochs_in_a_loop_by_iterations_are_refused(tmp_path):
    runner, _ = build_runner(tmp_path, False, dict(type='CastlingHook', unit='epoch', end=3))
    with pytest.raises(ValueError, match='loop by epochs'):
        runner.train()
