"""Fill the tables of docs/performance.md and draw its picture of detectors.

python tools/studies/report_speed.py

The numbers come from docs/studies/speed/RUN.json, which are what ``--out`` of the benchmarks
writes; the page says with which command. A table is named ``RUN WHAT``, where WHAT is ``ms``,
``MiB``, ``MACs`` or ``conditions``. Its rows are the competitors of the run and its columns the
sizes. Milliseconds are followed by the ratio to the first row of the same mode and part.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tables import fill_tables

from castling_det.analysis.latency import FORMS, Measurement, Shape, load, plot_latencies
from castling_det.engine.cli import errors_in_one_sentence
from castling_det.errors import InputError
from castling_det.output_files import atomic_write

DOCS = Path(__file__).parents[2] / 'docs'
RUNS = DOCS / 'studies' / 'speed'
CONDITIONS = ('hardware', 'torch', 'threads', 'batch', 'rounds', 'load_average', 'commit')


def lines_of(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """The measurements of each competitor, in the order of the run."""
    lines: dict[tuple, list[Measurement]] = {}
    for each in measurements:
        lines.setdefault((each.model, each.form, each.mode, each.part), []).append(each)
    return list(lines.values())


def name_of(line: Sequence[Measurement], has_modes: bool) -> str:
    """What a row is called: a config's name without its schedule, and what tells it from others."""
    first = line[0]
    name = ' '.join(first.model.split('_')[:2])
    parts = [name if first.form != FORMS['twin'] else f'{name}, softmax twin']
    parts += ['backbone'] if first.part == 'backbone' else []
    parts += [first.mode] if has_modes else []
    return ', '.join(parts)


def size_of(shape: Shape) -> str:
    """A square by its side, a row of tokens by their number, any other as height x width."""
    height, width = shape
    if height in (1, width):
        return f'{width:,}'
    return f'{height}x{width}'


def milliseconds(measured: Measurement, first: Measurement) -> str:
    if not measured.seconds:
        return '*out of memory*'
    ms = f'{1e3 * measured.median:.{1 if measured.median < 0.01 else 0}f}'
    return (
        ms if measured is first or not first.seconds else f'{ms} ({measured.ratio_to(first):.2f})'
    )


def table(run: str, what: str) -> list[list[str]]:
    """Header and rows.

    Raises:
        InputError: If there is no such run or no such table.
    """
    file = RUNS / f'{run}.json'
    if not file.is_file():
        raise InputError(f'{file} does not exist: run the benchmark that writes it')
    conditions, measurements = load(file)
    if what == 'conditions':
        return [list(CONDITIONS), [str(conditions[name]) for name in CONDITIONS]]
    lines = lines_of(measurements)
    has_modes = len({each.mode for each in measurements}) > 1
    firsts: dict[tuple, list[Measurement]] = {}
    rows = [['', *(size_of(each.shape) for each in lines[0])]]
    for line in lines:
        first = firsts.setdefault((line[0].mode, line[0].part), line)
        if what == 'ms':
            cells = [milliseconds(*pair) for pair in zip(line, first, strict=True)]
        elif what == 'MiB':
            cells = [f'{each.memory.peak / 2**20:,.0f}' if each.memory else '' for each in line]
        elif what == 'MACs':
            cells = [f'{each.macs / 1e9:,.2f}' if each.macs else '' for each in line]
        else:
            raise InputError(f'there is no table {what!r} of a run: take ms, MiB, MACs, conditions')
        if any(cells):
            rows.append([name_of(line, has_modes), *cells])
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    page = DOCS / 'performance.md'
    with errors_in_one_sentence():
        text = fill_tables(page.read_text(), lambda name: table(*name.split()))
        picture = plot_latencies(load(RUNS / 'detectors.json')[1])
        with atomic_write(page) as unfinished:
            unfinished.write_text(text)
        with atomic_write(DOCS / 'images' / 'latency.png') as unfinished:
            picture.savefig(unfinished, format='png')
    print(f'wrote {page} and its picture')


if __name__ == '__main__':
    main()
