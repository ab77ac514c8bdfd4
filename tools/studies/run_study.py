"""Train and test the unfinished runs of a study: ``python tools/studies/run_study.py PLAN``.

A plan and its results are described in tools/studies/study.py. Runs follow each other, each
in processes of one thread; after an interruption the same command goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from resource import struct_rusage

import torch
from mmengine.config import Config
from study import Run, Study, bootstrap_ap50

from castling_det.engine.cli import errors_in_one_sentence
from castling_det.errors import InputError
from castling_det.provenance import cpu_name, source_commit

TOOLS = Path(__file__).parents[1]
NUM_RESAMPLES = 200


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('plan', type=Path, help='plan.py of the study')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs'), help='for the runs')
    parser.add_argument('--hours', type=float, default=12.0, help='begin no run after this time')
    return parser.parse_args()


def call(log: Path, tool: str, *args: object) -> struct_rusage:
    """Run a tool in one thread with its output in a file; return what it used."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as output:
        process = subprocess.Popen(
            [sys.executable, TOOLS / tool, *map(str, args)],
            env=os.environ | dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), '1'),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise InputError(f'{tool} failed: see the end of {log}')
    return usage


def train(config: Path, work_dir: Path) -> dict:
    """Train, or go on; cost is known only of a training that was not interrupted."""
    is_new = not (work_dir / 'last_checkpoint').exists()
    usage = call(work_dir / 'train.log', 'train.py', config, '--work-dir', work_dir, '--resume')
    return dict(
        train_cpu_seconds=round(usage.ru_utime + usage.ru_stime) if is_new else None,
        train_peak_mib=usage.ru_maxrss // 1024,
    )


def test(cfg: Config, config: Path, checkpoint: str, form: str) -> dict:
    """Metrics of a checkpoint in one form; a detector's with its bootstrapped AP50."""
    folder = config.parent / f'test-{form}'
    args = [config, checkpoint, '--work-dir', folder, '--form', form]
    is_detector = cfg.test_evaluator.type == 'CocoMetric'
    if is_detector:
        args += ['--cfg-options', f'test_evaluator.outfile_prefix={folder / "found"}']
    call(folder / 'test.log', 'test.py', *args)
    metrics = json.loads(max(folder.glob('*/*.json')).read_text())
    if is_detector:
        detections = json.loads((folder / 'found.bbox.json').read_text())
        ap50 = bootstrap_ap50(cfg.test_evaluator.ann_file, detections, NUM_RESAMPLES)
        metrics['bootstrapped_ap50'] = ap50.round(4).tolist()
    return metrics


def execute(study: Study, run: Run, work_dir: Path) -> None:
    """Train and test one run, and save its result."""
    work_dir.mkdir(parents=True, exist_ok=True)
    config = work_dir / 'config.py'
    cfg = study.config(run)
    cfg.dump(config)
    cost = train(config, work_dir)
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    metrics = {form: test(cfg, config, checkpoint, form) for form in study.forms(run)}
    study.save(
        run,
        dict(
            metrics=metrics,
            **cost,
            commit=source_commit(),
            hardware=f'one thread of {cpu_name()}',
            torch=torch.__version__,
        ),
    )


def main() -> None:
    args = parse_args()
    end = time.time() + 3600 * args.hours
    with errors_in_one_sentence():
        study = Study(args.plan)
        while time.time() < end and (run := next(study.unfinished(), None)):
            begin = time.time()
            execute(study, run, args.work_dir / run.name)
            minutes = (time.time() - begin) / 60
            print(f'{run.name}: {study.score(run):.3f} after {minutes:.1f} min', flush=True)


if __name__ == '__main__':
    main()
