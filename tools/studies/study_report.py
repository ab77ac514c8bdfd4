"""What a study has found so far: tables for its page, and a picture."""

import numpy as np
from matplotlib.figure import Figure
from study import Run, Study

from castling_det.analysis.complexity import count_config
from castling_det.configs import input_shape

Rows = list[list[str]]


def tables(study: Study) -> dict[str, Rows]:
    """Header and rows of each table, by name.

    ``tuning`` has the metric of every learning rate, ``arms`` the mean and standard deviation over
    the seeds and the verdict against the reference, ``metrics`` every number that testing gave,
    ``cost`` what training and inference take.
    """
    return dict(
        tuning=_tuning(study), arms=_arms(study), metrics=_metrics(study), cost=_cost(study)
    )


def picture(study: Study) -> Figure:
    """One dot a run, one line an arm's mean."""
    figure = Figure(figsize=(8, 0.6 + 0.5 * len(study.plan.arms)), layout='constrained')
    axes = figure.add_subplot()
    for height, arm in enumerate(study.plan.arms):
        scores = [study.score(run) for run in study.finished_runs(arm)]
        axes.plot(scores, [height] * len(scores), 'o', alpha=0.7)
        if scores:
            axes.plot([np.mean(scores)] * 2, [height - 0.3, height + 0.3], 'k')
    axes.set_yticks(range(len(study.plan.arms)), study.plan.arms)
    axes.invert_yaxis()
    axes.set_xlabel(study.plan.metric)
    axes.grid(axis='x', alpha=0.3)
    return figure


def _tuning(study: Study) -> Rows:
    rows = [['arm', *(f'lr {lr:g}' for lr in study.plan.lrs)]]
    for arm in dict.fromkeys(arm.tuned_as for arm in study.plan.arms.values()):
        runs = study.tuning_runs(arm)
        rows.append([arm, *(f'{study.score(r):.3f}' if study.result(r) else '' for r in runs)])
    return rows


def _arms(study: Study) -> Rows:
    rows = [['arm', 'seeds', 'lr', study.plan.metric, 'against the reference', 'verdict']]
    for arm in study.plan.arms:
        runs = study.finished_runs(arm)
        if not runs:
            rows.append([arm, '0', '', '*not run*', '', ''])
            continue
        score = _mean_and_deviation([study.score(run) for run in runs])
        row = [arm, str(len(runs)), f'{runs[0].lr:g}', score]
        if arm == study.plan.reference:
            rows.append([*row, 'reference', ''])
            continue
        difference = study.difference(arm)
        if not difference.num_pairs:
            rows.append([*row, '', difference.verdict])
            continue
        error = '' if np.isnan(difference.error) else f' ± {difference.error:.4f}'
        rows.append([*row, f'{difference.mean:+.4f}{error}', difference.verdict])
    return rows


def _metrics(study: Study) -> Rows:
    """Columns are the numbers that the first finished run has."""
    runs = {arm: study.finished_runs(arm) for arm in study.plan.arms}
    first = next((run for finished in runs.values() for run in finished), None)
    if first is None:
        return [['arm', 'form'], *([arm, '*not run*'] for arm in study.plan.arms)]
    names = [key for key, value in _numbers(study, first, 'inference').items() if value >= 0]
    rows = [['arm', 'form', *names]]
    for arm, finished in runs.items():
        for form in study.forms(finished[0]) if finished else ():
            columns = ([_numbers(study, run, form)[name] for run in finished] for name in names)
            rows.append([arm, form, *map(_mean_and_deviation, columns)])
    return rows


def _numbers(study: Study, run: Run, form: str) -> dict[str, float]:
    """Metrics of a run, without times; of resampled ones the standard deviation over the draws."""
    metrics = study.result(run)['metrics'][form]
    return {
        name: float(np.std(value)) if isinstance(value, list) else value
        for name, value in metrics.items()
        if name not in ('time', 'data_time')
    }


def _cost(study: Study) -> Rows:
    rows = [['arm', 'params M', 'MACs G', 'training, CPU min', 'training, peak MiB']]
    for arm in study.plan.arms:
        cfg = study.config(Run(arm, study.plan.lrs[0], study.plan.seeds[0]))
        count = count_config(cfg, input_shape(cfg))
        results = [study.result(run) for run in study.finished_runs(arm)]
        minutes = [r['train_cpu_seconds'] / 60 for r in results if r['train_cpu_seconds']]
        peaks = [r['train_peak_mib'] for r in results]
        rows.append(
            [
                arm,
                f'{count.params / 1e6:.2f}',
                f'{count.macs / 1e9:.3f}',
                f'{np.median(minutes):.1f}' if minutes else '',
                f'{max(peaks)}' if peaks else '',
            ]
        )
    return rows


def _mean_and_deviation(values: list[float]) -> str:
    if len(values) == 1:
        return f'{values[0]:.3f}'
    return f'{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}'
