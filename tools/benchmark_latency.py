"""Time models against each other, interleaved in one run: forms of configs, and ONNX files.

Without decoding and NMS unless --with-nms; random weights, so that no checkpoint is needed.

python tools/benchmark_latency.py CONFIG ANOTHER --shape 320 320 640 640 --plot latency.png
python tools/benchmark_latency.py CONFIG --parts whole backbone --shape 512 512 1024 1024
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '6')  # the memory profiler announces itself otherwise

from castling_det.analysis import latency
from castling_det.analysis.competitors import (
    PRECISIONS,
    SOFTMAX,
    onnx_competitor,
    torch_competitors,
)
from castling_det.analysis.latency import (
    FORMS,
    ONNX_MODES,
    PARTS,
    TORCH_MODES,
    Competitor,
    Measurement,
    Setting,
    Shape,
)
from castling_det.configs import input_shape
from castling_det.engine.cli import errors_in_one_sentence, load_config
from castling_det.output_files import atomic_write, require_place

COLUMNS = ('input', 'model', 'median ms', 'p90 ms', 'x first', 'peak MiB', 'of it kept', 'MACs G')
ROW = '{:>9}  {:{}}  {:>12}  {:>9}  {:>7}  {:>9}  {:>10}  {:>9}'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', metavar='config', help='config files')
    parser.add_argument('--onnx', nargs='+', type=Path, default=[], help='ONNX files')
    parser.add_argument(
        '--modes',
        nargs='+',
        choices=[*TORCH_MODES, *ONNX_MODES],
        default=['eager', 'onnxruntime'],
        help='the first two run configs, the others ONNX files (default: eager onnxruntime)',
    )
    parser.add_argument('--forms', nargs='+', choices=list(FORMS), default=['inference', 'twin'])
    parser.add_argument(
        '--parts', nargs='+', choices=PARTS, default=['whole'], help='of configs (default: whole)'
    )
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='H W',
        help='heights and widths; default: what the first config tests on',
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--precision', choices=list(PRECISIONS), default='fp32')
    parser.add_argument(
        '--with-nms', action='store_true', help='boxes decoded and suppressed, or label maps'
    )
    for name in ('threads', 'batch', 'rounds', 'warm_up'):
        flag, default = f'--{name.replace("_", "-")}', getattr(Setting, name)
        parser.add_argument(flag, type=int, default=default, help='default: %(default)s')
    parser.add_argument(
        '--memory-limit', type=float, metavar='GIB', help='of the whole process, on the CPU'
    )
    parser.add_argument('--out', type=Path, help='JSON file')
    parser.add_argument('--plot', type=Path, help='PNG file')
    args = parser.parse_args()
    modes = (TORCH_MODES if args.configs else ()) + (ONNX_MODES if args.onnx else ())
    if not set(modes) & set(args.modes):
        parser.error('nothing to measure: give a config, or --onnx, and one of its --modes')
    if not args.configs and args.shape is None:
        parser.error('--shape is needed: an ONNX file alone does not say what it is tested on')
    if args.shape and len(args.shape) % 2:
        parser.error('--shape takes pairs of height and width')
    return args


def competitors(args: argparse.Namespace, setting: Setting) -> tuple[list[Competitor], list[Shape]]:
    """What is to be measured, and at which sizes."""
    cfgs = [load_config(config) for config in args.configs]
    modes = [mode for mode in args.modes if mode in TORCH_MODES]
    sides = args.shape or input_shape(cfgs[0])
    shapes = list(zip(sides[::2], sides[1::2], strict=True))
    found = [
        each
        for cfg in cfgs
        for each in torch_competitors(cfg, args.forms, modes, setting, args.parts, shapes[0])
    ]
    modes = [mode for mode in args.modes if mode in ONNX_MODES]
    found += [onnx_competitor(path, mode, setting) for path in args.onnx for mode in modes]
    return found, shapes


def row(measured: Measurement, first: Measurement) -> list[str]:
    """Cells below ``COLUMNS``."""
    cells = [f'{measured.shape[0]}x{measured.shape[1]}', measured.name, 'out of memory', *5 * ['']]
    if measured.seconds:
        cells[2:4] = f'{1e3 * measured.median:.2f}', f'{1e3 * measured.p90:.2f}'
        cells[4] = f'{measured.ratio_to(first):.2f}' if first.seconds else ''
    if measured.memory:
        cells[5] = f'{measured.memory.peak / 2**20:.1f}'
        cells[6] = f'{measured.memory.kept / 2**20:.1f}'
    if measured.macs:
        cells[7] = f'{measured.macs / 1e9:.3f}'
    return cells


def verdicts(lines: Sequence[list[Measurement]]) -> Iterator[str]:
    """From which size each castled model takes less time than each other of its mode and part."""
    twins = {(line[0].model, line[0].mode) for line in lines if line[0].form == FORMS['twin']}
    for ours, theirs in product(lines, repeat=2):
        is_castled = ours[0].form == FORMS['inference'] and (ours[0].model, ours[0].mode) in twins
        if theirs[0].form == FORMS['training'] or theirs is ours:
            continue
        is_alike = (ours[0].mode, ours[0].part) == (theirs[0].mode, theirs[0].part)
        if is_castled and is_alike:
            shape = latency.faster_from(ours, theirs)
            where = f'from {shape[0]}x{shape[1]} on' if shape else 'not, at the largest size'
            yield f'{ours[0].name}: faster than {theirs[0].name} {where}'


def benchmark(args: argparse.Namespace) -> list[list[Measurement]]:
    """Measurements of each competitor; they are printed as they come."""
    setting = Setting(**{name: getattr(args, name) for name in Setting.__dataclass_fields__})
    with redirect_stdout(sys.stderr):  # where mmengine's logs go; stdout is for the numbers
        found, shapes = competitors(args, setting)
    conditions = latency.conditions(setting)
    print(*(f'{name}: {value}' for name, value in conditions.items()), sep=', ')
    print(f'{SOFTMAX}; batch norms are not folded', end='\n\n')
    width = max(len(each.name) for each in found)

    def show(cells: Sequence[str]) -> None:
        print(ROW.format(*cells[:2], width, *cells[2:]).rstrip(), flush=True)

    show(COLUMNS)
    lines = [[] for _ in found]
    limit = args.memory_limit and int(args.memory_limit * 2**30)
    with latency.memory_limit(limit):
        for number, measured in enumerate(latency.measure(found, shapes, setting)):
            lines[number % len(found)].append(measured)
            first = next(line[-1] for line in lines if line[-1].part == measured.part)
            show(row(measured, first))
    if len(shapes) > 1:
        print('', *verdicts(lines), sep='\n')
    if args.out:
        latency.save(args.out, conditions, sum(lines, []))
    return lines


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        for option, file in (('--out', args.out), ('--plot', args.plot)):
            if file:
                require_place(file, option)
        lines = benchmark(args)
        if args.plot:
            with atomic_write(args.plot) as unfinished:
                latency.plot_latencies(sum(lines, [])).savefig(unfinished, format='png')


if __name__ == '__main__':
    main()
