"""Latency and memory of models, measured side by side in one run."""

import json
import math
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch.profiler import ProfilerActivity, profile

from castling_det.errors import InputError
from castling_det.output_files import atomic_write
from castling_det.provenance import cpu_name, source_commit

Shape = tuple[int, int]
Call = Callable[[], Any]

FORMS = dict(inference='inference form', twin='softmax twin', training='training form')
PARTS = ('whole', 'backbone')
TORCH_MODES = ('eager', 'compile')
ONNX_MODES = ('onnxruntime', 'openvino')


@dataclass(frozen=True)
class Setting:
    """What every number of a run shares.

    Attributes:
        device (str): As torch names it. Defaults to 'cpu'.
        precision (str): 'fp32', 'fp16' or 'bf16', of weights and images; an ONNX file has its own.
            Defaults to 'fp32'.
        threads (int): Of each operation on the CPU. Defaults to 1.
        batch (int): Images of a forward. Defaults to 1.
        warm_up (int): Calls before the first that is timed. Defaults to 3.
        rounds (int): Timed calls. Defaults to 15.
        with_nms (bool): Whether detectors decode boxes and run NMS (``mode='predict'``), and
            segmentors make a label map of the image's size, or both stop at the head's maps.
            Weights are random, so that every location passes the score threshold and NMS gets as
            many boxes as it ever does. Defaults to False.

    Raises:
        InputError: If there is no such device, or nothing would be timed.
    """

    device: str = 'cpu'
    precision: str = 'fp32'
    threads: int = 1
    batch: int = 1
    warm_up: int = 3
    rounds: int = 15
    with_nms: bool = False

    def __post_init__(self) -> None:
        if self.device.startswith('cuda') and not torch.cuda.is_available():
            raise InputError(f'device {self.device}: torch finds no GPU here; take --device cpu')
        if self.rounds < 1:
            raise InputError(f'--rounds {self.rounds}: at least one call has to be timed')


@dataclass(frozen=True)
class Memory:
    """Bytes of tensors that one forward allocates, beside weights and images.

    Attributes:
        peak (int): The most that there is at a time.
        kept (int): What stays for the next forward, such as logit biases.
    """

    peak: int
    kept: int


@dataclass(frozen=True)
class Entry:
    """What tells a line of a latency table from the others.

    Attributes:
        model (str): Name of the config or of the ONNX file.
        form (str): A value of ``FORMS``, or 'as exported'.
        mode (str): One of ``TORCH_MODES`` or ``ONNX_MODES``.
        precision (str): As in the setting, or 'as exported'.
        part (str): One of ``PARTS``: the whole model, or its backbone alone.
    """

    model: str
    form: str
    mode: str
    precision: str
    part: str

    @property
    def name(self) -> str:
        model = self.model if self.part == 'whole' else f'{self.model}, {self.part}'
        return f'{model}, {self.form}, {self.mode}'


@dataclass(frozen=True)
class Competitor(Entry):
    """Something to measure.

    Attributes:
        prepare (Callable): Height and width of the images to a function that runs one batch.
        release (Callable): Frees what forwards have kept.
        count (Callable, optional): Height and width to the multiply-accumulates of a forward of one
            image, without NMS; None where they cannot be counted.
    """

    prepare: Callable[[Shape], Call]
    release: Callable[[], Any]
    count: Callable[[Shape], int] | None


@dataclass(frozen=True)
class Measurement(Entry):
    """One competitor at one input size.

    Attributes:
        shape (tuple[int, int]): Height and width of the images.
        device (str): As in the setting.
        threads (int): As in the setting.
        seconds (tuple[float, ...]): Of each round; empty where memory did not suffice.
        memory (Memory, optional): In eager mode alone.
        macs (int, optional): Of a forward of one image; in eager mode alone.
    """

    shape: Shape
    device: str
    threads: int
    seconds: tuple[float, ...]
    memory: Memory | None
    macs: int | None

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def p90(self) -> float:
        """The fastest time that at least 9 of 10 calls did not exceed."""
        return sorted(self.seconds)[math.ceil(0.9 * len(self.seconds)) - 1]

    def ratio_to(self, other: 'Measurement') -> float:
        """Median over the rounds of own time / other time; what slows a whole round cancels."""
        return median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def conditions(setting: Setting) -> dict[str, Any]:
    """What numbers depend on: the setting, hardware and its load, versions."""
    is_cuda = torch.device(setting.device).type == 'cuda'
    return dict(
        **asdict(setting),
        hardware=torch.cuda.get_device_name(setting.device) if is_cuda else cpu_name(),
        load_average=round(os.getloadavg()[0], 1),
        torch=torch.__version__,
        commit=source_commit(),
    )


def stopwatch(device: str) -> Callable[[], float]:
    """Seconds on a clock, read when all that was asked of the device is done."""
    if torch.device(device).type != 'cuda':
        return perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return read


def time_interleaved(
    calls: Sequence[Call], clock: Callable[[], float], warm_up: int, rounds: int
) -> list[tuple[float, ...]]:
    """Time functions in turn, so that each round sees all of them on the same machine.

    Args:
        calls (Sequence[Callable]): What competes.
        clock (Callable): See :func:`stopwatch`.
        warm_up (int): Rounds whose times are dropped.
        rounds (int): Rounds that count, at least 1.

    Returns:
        list[tuple[float, ...]]: Seconds of each call in each round.
    """
    times = [[] for _ in calls]
    for _ in range(warm_up + rounds):
        for call, own in zip(calls, times, strict=True):
            start = clock()
            call()
            own.append(clock() - start)
    return [tuple(own[warm_up:]) for own in times]


def peak_memory(call: Call, device: str) -> Memory:
    """Memory of tensors that a call allocates: torch's own count, not the process's.

    What libraries allocate by themselves is not seen, nor what there was before.

    Args:
        call (Callable): Its result counts while it is computed, and not as kept.
        device (str): Where the tensors are.
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return Memory(
            torch.cuda.max_memory_allocated(device) - before,
            torch.cuda.memory_allocated(device) - before,
        )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / 'trace.json'
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())['traceEvents']
    changes = [event['args'] for event in events if event.get('name') == '[memory]']
    live, total, peak = {}, 0, 0
    for change in sorted(changes, key=lambda change: change['Ev Idx']):
        address, size = change['Addr'], change['Bytes']
        if size > 0:
            live[address] = size
            total += size
        else:
            total -= live.pop(address, 0)  # 0: it was there before
        peak = max(peak, total)
    return Memory(peak, total)


@contextmanager
def memory_limit(size: int | None) -> Iterator[None]:
    """Let allocations on the CPU fail that would take this process above ``size`` bytes.

    Without a limit Linux gives more than there is, and kills the process when it is used.
    """
    if size is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@torch.no_grad()
def measure(
    competitors: Sequence[Competitor], shapes: Sequence[Shape], setting: Setting
) -> Iterator[Measurement]:
    """Measure competitors against each other, one input size after the other.

    Memory comes first, each competitor alone, from a first forward that keeps nothing yet. Who
    runs out of it is left out of that size's race, and says so by having no times; who runs out of
    it only while MACs are counted, step by step, has none.

    Args:
        competitors (Sequence[Competitor]): All of them stay in memory.
        shapes (Sequence[tuple[int, int]]): Heights and widths.
        setting (Setting): The one that the competitors were made with.

    Yields:
        Measurement: Size by size, in the order of the competitors.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        for shape in shapes:
            yield from _measure_at(competitors, shape, setting)
    finally:
        torch.set_num_threads(threads)


def _measure_at(
    competitors: Sequence[Competitor], shape: Shape, setting: Setting
) -> list[Measurement]:
    calls, memories, macs = {}, {}, {}
    torch.compiler.reset()
    for competitor in competitors:
        competitor.release()
    # Beyond its limit Dynamo runs a model uncompiled without a word.
    with torch._dynamo.config.patch(
        recompile_limit=8 * len(competitors), fail_on_recompile_limit_hit=True
    ):
        for number, competitor in enumerate(competitors):
            try:
                call = competitor.prepare(shape)
                if competitor.mode == 'eager':
                    memories[number] = peak_memory(call, setting.device)
                else:
                    call()
                calls[number] = call
                if competitor.mode == 'eager' and competitor.count is not None:
                    macs[number] = competitor.count(shape)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                competitor.release()
        times = time_interleaved(
            list(calls.values()), stopwatch(setting.device), setting.warm_up, setting.rounds
        )
    seconds = dict(zip(calls, times, strict=True))
    return [
        Measurement(
            competitor.model,
            competitor.form,
            competitor.mode,
            competitor.precision,
            competitor.part,
            shape,
            setting.device,
            setting.threads,
            seconds.get(number, ()),
            memories.get(number),
            macs.get(number),
        )
        for number, competitor in enumerate(competitors)
    ]


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def save(file: Path, conditions: dict[str, Any], measurements: Sequence[Measurement]) -> None:
    """Write a run as JSON, whole or not at all."""
    content = dict(conditions=conditions, measurements=[asdict(each) for each in measurements])
    with atomic_write(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + '\n')


def load(file: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """Conditions and measurements of a run that :func:`save` wrote."""
    content = json.loads(file.read_text())
    measurements = []
    for each in content['measurements']:
        each |= dict(shape=tuple(each['shape']), seconds=tuple(each['seconds']))
        if each['memory']:
            each['memory'] = Memory(**each['memory'])
        measurements.append(Measurement(**each))
    return content['conditions'], measurements


def faster_from(ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> Shape | None:
    """The smallest size from which ours takes less time at every size that was measured.

    A competitor that ran out of memory has lost that size.

    Args:
        ours, theirs (Sequence[Measurement]): One competitor each, at the same sizes.

    Returns:
        tuple[int, int] | None: Height and width; None if the largest size is lost.
    """
    pairs = sorted(
        zip(ours, theirs, strict=True), key=lambda pair: math.prod(pair[0].shape), reverse=True
    )
    smallest = None
    for mine, other in pairs:
        if not mine.seconds or (other.seconds and mine.ratio_to(other) >= 1):
            break
        smallest = mine.shape
    return smallest


def plot_latencies(measurements: Sequence[Measurement]) -> Figure:
    """Draw the median time (shaded up to p90), the peak of memory and MACs against the input size.

    Axes are logarithmic: a line of slope 2 is linear in the number of pixels, one of slope 4
    quadratic. A colour is a model or a backbone, a dash pattern its form, a marker the mode.
    """
    titles = ['latency, ms', 'memory, MiB']
    if any(each.macs for each in measurements):
        titles.append('MACs of one image, G')
    figure = Figure(figsize=(5.5 * len(titles), 5), dpi=100)
    figure.set_layout_engine('constrained')
    panels = dict(zip(titles, figure.subplots(1, len(titles)), strict=True))
    names = list(dict.fromkeys(each.name for each in measurements))
    models = list(dict.fromkeys((each.model, each.part) for each in measurements))
    dashes = dict(zip(FORMS.values(), ('-', '--', ':'), strict=True)) | {'as exported': '-.'}
    markers = dict(zip(TORCH_MODES + ONNX_MODES, 'os^D', strict=True))
    for name in names:
        own = [each for each in measurements if each.name == name and each.seconds]
        own.sort(key=lambda each: math.prod(each.shape))
        if not own:
            continue
        style = dict(
            color=f'C{models.index((own[0].model, own[0].part)) % 10}',
            linestyle=dashes[own[0].form],
            marker=markers[own[0].mode],
            markersize=4,
        )
        sides = [math.sqrt(math.prod(each.shape)) for each in own]
        medians = [1e3 * each.median for each in own]
        time, memory, *macs = panels.values()
        time.plot(sides, medians, label=name, **style)
        tails = [1e3 * each.p90 for each in own]
        time.fill_between(sides, medians, tails, color=style['color'], alpha=0.1, linewidth=0)
        if own[0].memory is not None:
            memory.plot(sides, [each.memory.peak / 2**20 for each in own], **style)
        counted = [
            (side, each.macs / 1e9) for side, each in zip(sides, own, strict=True) if each.macs
        ]
        if counted:
            macs[0].plot(*zip(*counted, strict=True), **style)
    ticks = sorted({math.sqrt(math.prod(each.shape)) for each in measurements})
    for title, panel in panels.items():
        panel.set(title=title, xscale='log', yscale='log', xlabel='square root of the pixels')
        panel.set_xticks(ticks, [f'{tick:.0f}' for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        panel.yaxis.set_major_formatter('{x:g}')
        panel.yaxis.set_minor_formatter('{x:g}')
        panel.grid(alpha=0.3)
    figure.legend(loc='outside upper center', ncols=2, fontsize='small')
    return figure
