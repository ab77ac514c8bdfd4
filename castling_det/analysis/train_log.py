"""The json log of a training: read, and drawn over its iterations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray

from castling_det.errors import InputError

Log = dict[str, tuple[ndarray, ndarray]]

# Of a line, what says when it was written; and what validation writes beside its metrics.
_PLACES = {'iter', 'epoch', 'step'}
_TIMES = {'time', 'data_time'}
_NUM_COLUMNS = 3


def read_log(run: Path) -> Log:
    """Read the log of a run.

    Every start of a training writes a folder of its own: those of a work dir are joined, and what a
    resumed training did again stands for what it had done before. Metrics of a validation stand at
    the iteration of the last line before them, which may be some iterations early; its own time is
    left out.

    Args:
        run (Path): Work dir, or the json (one dict a line) that mmengine writes below it, at
            ``TIMESTAMP/vis_data/scalars.json``. A last line that was cut off is left out.

    Returns:
        dict[str, tuple[ndarray, ndarray]]: Field to its iterations, int64 and ascending, and its
        values, float64, both ``(N,)``.

    Raises:
        InputError: If there is no log, or none with lines, or if a line is not json.
    """
    logs = sorted(run.glob('*/vis_data/scalars.json')) if run.is_dir() else [run]
    if not logs or not logs[0].is_file():
        raise InputError(
            f'{run} is neither a json log nor a work dir with TIMESTAMP/vis_data/scalars.json'
        )
    points: dict[str, dict[int, float]] = {}
    iteration = 0
    for log in logs:
        is_first = True
        for line in _lines(log):
            is_metrics = 'iter' not in line and not _TIMES.isdisjoint(line)
            if not is_metrics:
                iteration = line['step']
                if is_first:
                    _drop_from(iteration, points)
                    is_first = False
            for field in line.keys() - _PLACES - (_TIMES if is_metrics else set()):
                points.setdefault(field, {})[iteration] = line[field]
    if not points:
        raise InputError(f'{run} holds no line yet: its training has not logged anything')
    return {
        field: (
            np.array(list(values), dtype=np.int64),
            np.array(list(values.values()), dtype=float),
        )
        for field, values in sorted(points.items())
        if values
    }


def _drop_from(iteration: int, points: dict[str, dict[int, float]]) -> None:
    for values in points.values():
        for later in [each for each in values if each >= iteration]:
            del values[later]


def _lines(log: Path) -> Iterator[dict]:
    lines = log.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f'{log}, line {number}, is not json: {line[:60]!r}') from error


def plot_logs(logs: Mapping[str, Log], patterns: Sequence[str]) -> Figure:
    """Draw a panel for each field, in which every run is a line.

    Args:
        logs (Mapping[str, Log]): Name of a run to its log, from :func:`read_log`.
        patterns (Sequence[str]): Fields to draw, in this order, ``*`` standing for any text.

    Raises:
        InputError: If no field fits.
    """
    known = list(dict.fromkeys(field for log in logs.values() for field in log))
    fields = list(
        dict.fromkeys(field for each in patterns for field in known if fnmatch(field, each))
    )
    if not fields:
        raise InputError(f'no field fits {" ".join(patterns)}; there are {", ".join(known)}')
    num_columns = min(_NUM_COLUMNS, len(fields))
    num_rows = -(-len(fields) // num_columns)
    figure = Figure(figsize=(4.5 * num_columns, 3 * num_rows + 0.4 * len(logs)), dpi=100)
    figure.set_layout_engine('constrained')
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True).flatten()
    for panel, field in zip(panels, fields, strict=False):
        for number, log in enumerate(logs.values()):
            iterations, values = log.get(field, ([], []))
            marker = 'o' if len(values) < 20 else None
            panel.plot(iterations, values, color=f'C{number}', marker=marker, markersize=3)
        panel.set_title(field)
        panel.set_xlabel('iteration')
        panel.tick_params(labelbottom=True)
        panel.grid(alpha=0.3)
    for panel in panels[len(fields) :]:
        panel.remove()
    figure.legend(handles=panels[0].lines, labels=list(logs), loc='outside upper center')
    return figure
