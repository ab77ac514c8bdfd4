import json
import math
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from mmengine.config import Config
from torch.nn.attention import SDPBackend, sdpa_kernel

from castling_det.analysis import latency
from castling_det.analysis.competitors import onnx_competitor, torch_competitors
from castling_det.analysis.complexity import count_forms
from castling_det.analysis.latency import (
    Competitor,
    Measurement,
    Memory,
    Setting,
    faster_from,
    measure,
    memory_limit,
    peak_memory,
    plot_latencies,
    time_interleaved,
)
from castling_det.errors import InputError
from castling_det.models import SoftmaxAttention
from castling_det.models.levit import LogitBias

ROOT = Path(__file__).parents[2]
NANO = ROOT / 'configs/castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'
SEGMENTOR = ROOT / 'configs/castling_seg/castling-segformer_vit-nano_1xb4-1500i_camvid-192x256.py'
LCNET = ROOT / 'configs/castling_picodet/picodet-s_lcnet_4xb48-300e_coco-416x416.py'
MIB = 2**20


class FakeMachine:
    """A clock that only its own calls move, and what they did."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def call(self, name, durations):
        durations = iter(durations)

        def run():
            self.log.append(name)
            self.now += next(durations)

        return run

    def clock(self):
        return self.now


def measurement(
    seconds, side=64, form='inference form', memory=None, model='a', part='whole', macs=None
):
    entry = (model, form, 'eager', 'fp32', part)
    return Measurement(*entry, (side, side), 'cpu', 1, tuple(seconds), memory, macs)


def test_calls_take_turns_and_the_warm_up_is_dropped():
    machine = FakeMachine()
    a = machine.call('a', [100, 1, 2, 4])
    b = machine.call('b', [200, 8, 16, 32])
    times = time_interleaved([a, b], machine.clock, warm_up=1, rounds=3)
    assert machine.log == ['a', 'b'] * 4
    assert times == [(1, 2, 4), (8, 16, 32)]


@pytest.mark.parametrize(
    ('seconds', 'median', 'p90'),
    [
        ((5.0,), 5.0, 5.0),
        ((3.0, 1.0), 2.0, 3.0),
        (tuple(range(10, 0, -1)), 5.5, 9),
        (tuple(range(1, 12)), 6, 10),
        (tuple(range(1, 21)), 10.5, 18),
    ],
)
def test_median_and_p90(seconds, median, p90):
    measured = measurement(seconds)
    assert (measured.median, measured.p90) == (median, p90)


def test_ratio_survives_what_slows_a_round():
    """Twice the time in every round; the medians of both apart would say 1.5."""
    fast, slow = measurement([1, 3, 5]), measurement([2, 6, 10])
    assert slow.ratio_to(fast) == 2 and fast.ratio_to(slow) == 0.5
    noise = [1, 9, 2]
    ours = measurement([n * 3 for n in noise])
    theirs = measurement([n * 2 for n in (1, 9, 30)])
    assert ours.ratio_to(theirs) == 1.5


def test_faster_from_wants_every_larger_size():
    def line(*ratios, sides=(32, 64, 128)):
        return [measurement([ratio], side) for ratio, side in zip(ratios, sides, strict=True)]

    ones = line(1, 1, 1)
    assert faster_from(line(2, 0.9, 0.5), ones) == (64, 64)
    assert faster_from(line(0.5, 2, 0.5), ones) == (128, 128)
    assert faster_from(line(0.5, 0.5, 0.5), ones) == (32, 32)
    assert faster_from(line(0.5, 0.5, 1), ones) is None
    shuffled = (128, 32, 64)
    assert faster_from(line(0.5, 2, 0.9, sides=shuffled), line(1, 1, 1, sides=shuffled)) == (64, 64)
    lost = [*ones[:2], measurement([], 128)]
    assert faster_from(line(2, 2, 9), lost) == (128, 128)
    assert faster_from(lost, line(2, 2, 9)) is None


def test_peak_and_kept_memory_of_a_call():
    before, kept = [torch.zeros(MIB)], []

    def call():
        before.clear()  # was there before: no part of it
        a = torch.zeros(MIB)
        b = a.clone()
        del a
        kept.append(torch.ones(MIB // 2))
        return b

    assert peak_memory(call, 'cpu') == Memory(peak=8 * MIB, kept=2 * MIB)
    kept.clear()
    assert peak_memory(lambda: torch.zeros(10), 'cpu') == Memory(40, 0)


def fake(name, machine, durations):
    call = machine.call(name, durations)
    entry = (name, 'inference form', 'compile', 'fp32', 'whole')
    return Competitor(*entry, lambda shape: call, lambda: None, None)


def test_measuring_size_by_size(monkeypatch):
    machine = FakeMachine()
    monkeypatch.setattr(latency, 'perf_counter', machine.clock)
    setting = Setting(warm_up=0, rounds=2)
    a, b = fake('a', machine, count(1)), fake('b', machine, count(10))
    threads = torch.get_num_threads()
    results = list(measure([a, b], [(32, 64), (64, 64)], setting))
    assert torch.get_num_threads() == threads
    assert machine.log == [*('a', 'b') * 3, *('a', 'b') * 3]
    assert [(each.model, each.shape, each.seconds) for each in results] == [
        ('a', (32, 64), (2, 3)),
        ('b', (32, 64), (11, 12)),
        ('a', (64, 64), (5, 6)),
        ('b', (64, 64), (14, 15)),
    ]
    assert results[0].name == 'a, inference form, compile'
    assert (results[0].device, results[0].precision, results[0].threads) == ('cpu', 'fp32', 1)


def eager(name, prepare, release=lambda: None, count=None):
    return Competitor(name, 'as exported', 'eager', 'fp32', 'whole', prepare, release, count)


def test_who_needs_too_much_memory_is_out_of_the_race():
    """And leaves what it has kept to the others."""
    kept = []

    def in_use():
        status = Path('/proc/self/status').read_text()
        return 1024 * int(status.partition('VmData:')[2].split()[0])

    def prepare(shape):
        def call():
            for _ in range(shape[0]):
                kept.append(torch.empty(192 * MIB))  # 0.75 GiB, untouched

        return call

    def need_most_of_it(shape):
        return lambda: torch.empty(192 * MIB)

    greedy, modest = eager('greedy', prepare, kept.clear), eager('modest', need_most_of_it)
    with memory_limit(in_use() + 2**30):
        results = list(measure([greedy, modest], [(0, 1), (2, 1)], Setting(rounds=1)))
    assert [len(each.seconds) for each in results] == [1, 1, 0, 1]
    assert results[2].memory is None and results[3].memory.peak == 768 * MIB
    prepare((2, 1))()  # the limit is gone
    assert len(kept) == 2


def test_who_cannot_be_counted_stays_in_the_race():
    def lack(shape):
        raise torch.OutOfMemoryError('the whole matrix of logits')

    both = [
        eager('a', lambda shape: list, count=math.prod),
        eager('b', lambda shape: list, count=lack),
    ]
    counted, uncounted = measure(both, [(3, 5)], Setting(rounds=2))
    assert (counted.macs, uncounted.macs) == (15, None)
    assert len(uncounted.seconds) == 2 and uncounted.memory is not None


def test_other_errors_are_no_lack_of_memory():
    def broken(shape):
        raise RuntimeError('something else')

    with pytest.raises(RuntimeError, match='something else'):
        list(measure([eager('broken', broken)], [(1, 1)], Setting(rounds=1)))


def test_plot_draws_a_line_for_each_competitor():
    memory = Memory(3 * MIB, MIB)
    lines = [
        measurement([0.002, 0.004], 128, memory=memory),
        measurement([0.001, 0.003], 64, memory=memory),
        measurement([0.004], 64, 'softmax twin', memory),
        measurement([], 128, 'softmax twin'),
        measurement([0.005], 64, 'inference form', None, model='b'),
    ]
    time, memory = plot_latencies(lines).axes
    assert [line.get_label() for line in time.lines] == [
        'a, inference form, eager',
        'a, softmax twin, eager',
        'b, inference form, eager',
    ]
    assert [line.get_linestyle() for line in time.lines] == ['-', '--', '-']
    assert list(time.lines[0].get_xdata()) == [64, 128]
    assert time.lines[0].get_ydata() == pytest.approx([2, 3])
    assert len(memory.lines) == 2 and list(memory.lines[0].get_ydata()) == [3, 3]


def test_plot_draws_macs_where_they_are_counted():
    """A backbone has another colour than its model, a twin another dash pattern."""
    lines = [
        measurement([0.1], 64, memory=Memory(0, 0), macs=3e9),
        measurement([0.1], 64, memory=Memory(0, 0), macs=1e9, part='backbone'),
        measurement([0.1], 128, 'softmax twin', Memory(0, 0), macs=8e9, part='backbone'),
        measurement([0.1], 64, 'softmax twin', Memory(0, 0), macs=2e9, part='backbone'),
        measurement([0.1], 256, 'softmax twin', Memory(0, 0), part='backbone'),
    ]
    *_, macs = plot_latencies(lines).axes
    assert macs.get_title() == 'MACs of one image, G'
    assert [list(line.get_ydata()) for line in macs.lines] == [[3], [1], [2, 8]]
    assert [line.get_linestyle() for line in macs.lines] == ['-', '-', '--']
    whole, *backbones = (line.get_color() for line in macs.lines)
    assert {whole}.isdisjoint(backbones) and len(set(backbones)) == 1


def outputs(competitor, shape):
    with torch.no_grad():
        maps = competitor.prepare(shape)()
    return [each for level in maps for each in level]


def test_forms_of_a_config_compute_what_they_are():
    """One seed for all: training form differs by aux, the twin by its attention, both in shape."""
    cfg, setting = Config.fromfile(NANO), Setting()
    inference, twin, training = torch_competitors(
        cfg, ['inference', 'twin', 'training'], ['eager'], setting
    )
    assert (inference.form, twin.form, training.form) == (
        'inference form',
        'softmax twin',
        'training form',
    )
    found = {}
    for competitor in (inference, twin, training):
        torch.manual_seed(1)
        found[competitor.form] = outputs(competitor, (64, 96))
    shapes = {form: [each.shape for each in maps] for form, maps in found.items()}
    assert shapes['inference form'] == shapes['softmax twin'] == shapes['training form']
    assert (*shapes['inference form'][0][:1], *shapes['inference form'][0][2:]) == (1, 8, 12)
    for form in ('softmax twin', 'training form'):
        assert not torch.allclose(found[form][0], found['inference form'][0])
    (plain,) = torch_competitors(Config.fromfile(LCNET), ['twin', 'training'], ['eager'], setting)
    assert plain.form == 'inference form'


def test_precision_batch_and_nms():
    cfg = Config.fromfile(NANO)
    setting = Setting(precision='bf16', batch=2)
    (competitor,) = torch_competitors(cfg, ['twin'], ['eager'], setting)
    maps = outputs(competitor, (32, 64))
    assert maps[-1].dtype == torch.bfloat16 and len(maps[-1]) == 2
    (competitor,) = torch_competitors(
        cfg, ['inference'], ['eager'], Setting(batch=2, with_nms=True)
    )
    with torch.no_grad():
        results = competitor.prepare((64, 64))()
    assert len(results) == 2
    for result in results:
        assert 50 < len(result.pred_instances) <= cfg.model.test_cfg.max_per_img
    with pytest.raises(ValueError, match='NMS is not compiled'):
        torch_competitors(cfg, ['inference'], ['eager', 'compile'], Setting(with_nms=True))


def test_parts_and_forms_of_a_segmentor():
    """A backbone computes its model's maps; each counts as a fresh one of its own config."""
    cfg, shape = Config.fromfile(SEGMENTOR), (64, 96)
    forms = ['inference', 'twin', 'training']
    competitors = torch_competitors(cfg, forms, ['eager'], Setting(batch=2), ['whole', 'backbone'])
    named = {(each.form, each.part): each for each in competitors}
    assert len(named) == 6
    expected = count_forms(cfg, shape)
    for form, complexity in expected.items():
        whole, backbone = named[form, 'whole'], named[form, 'backbone']
        assert backbone.name == f'{SEGMENTOR.stem}, backbone, {form}, eager'
        calls = whole.prepare(shape), backbone.prepare(shape)
        assert whole.count(shape) == complexity.macs
        assert backbone.count(shape) == complexity.parts['backbone'].macs
        image = torch.randn(1, 3, *shape)
        with torch.no_grad():
            maps = calls[0].func.backbone(image)
            assert all(map(torch.equal, maps, calls[1].func(image)))
            assert len(calls[0]()) == 2 and len(calls[1]()[0]) == 2
    macs = [each.macs for each in expected.values()]
    assert macs[0] > macs[1] != macs[2]


def test_segmentor_up_to_its_label_map():
    (whole, backbone) = torch_competitors(
        *(Config.fromfile(SEGMENTOR), ['inference'], ['eager'], Setting(with_nms=True)),
        ['whole', 'backbone'],
    )
    with torch.no_grad():
        (sample,) = whole.prepare((64, 96))()
        (x,) = backbone.prepare((64, 96))()
    assert sample.pred_sem_seg.data.shape == (1, 64, 96)
    assert x.shape == (1, 128, 4, 6)


def test_padded_twin_is_counted_without_the_zeros():
    cfg = Config.fromfile(NANO)
    (twin,) = torch_competitors(cfg, ['twin'], ['eager'], Setting())
    twin.prepare((64, 96))
    assert twin.count((64, 96)) == count_forms(cfg, (64, 96))['softmax twin'].macs


def test_twin_takes_the_fused_kernel_and_computes_the_same():
    (twin,) = torch_competitors(Config.fromfile(NANO), ['twin'], ['eager'], Setting())
    model = twin.prepare.args[0].double().eval()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            fused = model(image)
        for module in model.modules():
            if isinstance(module, SoftmaxAttention):
                module._forward_pre_hooks.clear()
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match='kernel'):
            model(image)
        reference = model(image)
    for ours, theirs in zip(sum(fused, []), sum(reference, []), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_twin_computes_its_biases_once_for_a_grid(monkeypatch):
    calls, forward = [], LogitBias.forward
    monkeypatch.setattr(
        LogitBias, 'forward', lambda self, hw: calls.append(hw) or forward(self, hw)
    )
    (twin,) = torch_competitors(Config.fromfile(NANO), ['twin'], ['eager'], Setting())
    calls.clear()
    with torch.no_grad():
        call = twin.prepare((64, 96))
        first, second = call(), call()
        num_layers = sum(isinstance(m, LogitBias) for m in twin.prepare.args[0].modules())
        assert len(calls) == num_layers > 0
        twin.prepare((64, 64))()
    assert len(calls) == 2 * num_layers
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_compiled_twin_computes_its_biases_once(monkeypatch):
    cfg = Config.fromfile(NANO)
    (twin,) = torch_competitors(cfg, ['twin'], ['compile'], Setting())
    model = twin.prepare.args[0]
    for module in model.modules():
        if isinstance(module, LogitBias):
            torch.nn.init.normal_(module.table)
    monkeypatch.setattr(torch, 'compile', lambda model, dynamic: model)
    with torch.no_grad():
        call = twin.prepare((64, 96))
        assert not any(isinstance(module, LogitBias) for module in call.func.modules())
        assert any(isinstance(module, LogitBias) for module in model.modules())
        expected = model(*call.args)
        for ours, theirs in zip(sum(call(), []), sum(expected, []), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('mode', ['onnxruntime', 'openvino'])
def test_missing_runtime_and_file_are_said(tmp_path, monkeypatch, mode):
    path = tmp_path / 'model.onnx'
    with pytest.raises(InputError, match='model.onnx does not exist'):
        onnx_competitor(path, mode, Setting())
    path.touch()
    monkeypatch.setitem(sys.modules, mode, None)
    with pytest.raises(ValueError, match=f'the mode {mode} needs {mode}: pip install'):
        onnx_competitor(path, mode, Setting())


@pytest.mark.parametrize('mode', ['onnxruntime', 'openvino'])
def test_onnx_file_runs_at_its_own_sizes(tmp_path, mode):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip(mode)
    path = tmp_path / 'model.onnx'
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node('Relu', ['image'], ['out'])],
        'relu',
        [helper.make_tensor_value_info('image', kind, ['batch', 3, 4, 'width'])],
        [helper.make_tensor_value_info('out', kind, ['batch', 3, 4, 'width'])],
    )
    opset = [helper.make_opsetid('', 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    competitor = onnx_competitor(path, mode, Setting(batch=2))
    assert competitor.name == f'model, as exported, {mode}'
    out = competitor.prepare((4, 6))()[0]
    assert out.shape == (2, 3, 4, 6) and out.max() > 0
    with pytest.raises(ValueError, match='takes image .* not .2, 3, 5, 6.*dynamic sizes'):
        competitor.prepare((5, 6))
    with pytest.raises(ValueError, match='onnxruntime has no|runs on the CPU'):
        onnx_competitor(path, mode, Setting(device='xpu'))


def test_tool(tmp_path, call):
    out, plot = tmp_path / 'latency.json', tmp_path / 'latency.png'
    files = ['--out', out, '--plot', plot]
    speed = ['--rounds', 2, '--warm-up', 0, '--memory-limit', 100]
    parts = ['--parts', 'whole', 'backbone']
    shapes = ['--shape', 64, 64, 32, 64]
    printed = call('benchmark_latency', NANO, LCNET, *shapes, *parts, *speed, *files)
    conditions, statement, _, header, *rows = printed.splitlines()
    for condition in ('device: cpu', 'precision: fp32', 'threads: 1', 'batch: 1', 'commit: '):
        assert condition in conditions
    assert f'torch: {torch.__version__}' in conditions
    assert 'F.scaled_dot_product_attention with the logit biases as attn_mask' in statement
    assert header.split()[:3] == ['input', 'model', 'median']

    content = json.loads(out.read_text())
    assert content['conditions']['rounds'] == 2 and content['conditions']['with_nms'] is False
    measurements = content['measurements']
    assert [(each['form'], each['part'], each['shape']) for each in measurements] == [
        (form, part, shape)
        for form in ('inference form', 'softmax twin', 'inference form')
        for part in ('whole', 'backbone')
        for shape in ([64, 64], [32, 64])
    ]
    assert all(len(each['seconds']) == 2 for each in measurements)
    castled, backbone, twin = measurements[0], measurements[2], measurements[4]
    assert castled['macs'] > backbone['macs'] > 0
    cells = rows[2].rpartition('eager')[2].split()
    assert rows[2].split()[0] == '64x64'
    assert cells[0] == f'{1e3 * sum(twin["seconds"]) / 2:.2f}'
    assert cells[1] == f'{1e3 * max(twin["seconds"]):.2f}'
    ratios = [b / a for a, b in zip(castled['seconds'], twin['seconds'], strict=True)]
    assert cells[2] == f'{sum(ratios) / 2:.2f}'
    assert cells[3] == f'{twin["memory"]["peak"] / MIB:.1f}'
    assert cells[5] == f'{twin["macs"] / 1e9:.3f}'
    assert rows[1].rpartition('eager')[2].split()[2] == '1.00'  # a backbone beside a backbone
    biases = sum(  # float32, of the grids below strides 16, 32 and 64
        4 * heads * queries * keys
        for heads, queries, keys in [
            *[(4, 16, 16)] * 2,
            *[(64 // 16, 4, 16), *[(6, 4, 4)] * 2],
            *[(128 // 16, 1, 4), *[(8, 1, 1)] * 2],
        ]
    )
    assert twin['memory']['kept'] == biases and castled['memory']['kept'] == 0
    assert math.prod(imread(plot).shape) > 0
    verdicts = [line for line in rows if ': faster than' in line]
    assert len(verdicts) == 4 and all(line.startswith(NANO.stem) for line in verdicts)
    assert {line.count(', backbone, ') for line in verdicts} == {0, 2}


def test_tool_refuses_in_one_sentence(tmp_path, monkeypatch, call, refusal, capsys):
    tool = 'benchmark_latency'
    said = f'error: ONNX file {tmp_path}/no.onnx does not exist'
    assert refusal(tool, NANO, '--onnx', tmp_path / 'no.onnx').startswith(said)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 'take --device cpu' in refusal(tool, NANO, '--device', 'cuda:1')
    assert refusal(tool, NANO, '--rounds', 0).startswith('error: --rounds 0: ')
    for arguments, message in [
        ([], 'nothing to measure'),
        ([NANO, '--modes', 'openvino'], 'nothing to measure'),
        (['--onnx', 'x.onnx', '--modes', 'eager'], 'nothing to measure'),
        (['--onnx', 'x.onnx'], '--shape is needed'),
        ([NANO, '--shape', 3], 'pairs'),
    ]:
        with pytest.raises(SystemExit):
            call(tool, *arguments)
        assert message in capsys.readouterr().err
