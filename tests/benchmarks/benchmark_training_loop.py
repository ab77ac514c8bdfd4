"""Images a second of a training loop, one data set and recipe, several detectors.

python tests/benchmarks/benchmark_training_loop.py CONFIG ANOTHER... [--iterations 20] [--out FILE]

Data, pipeline, batch size, optimizer and loop are the first config's; of each config the model is
taken, with the first one's preprocessor and without random sizes, so that all see the same pixels.
One process loads and trains (num_workers=0), one thread, random weights. Models take turns, each
with a Runner of its own a round; what counts is the median iteration, loading included.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from castling_det.engine.cli import load_config
from castling_det.provenance import cpu_name, source_commit

SKIPPED = 2  # iterations of each Runner: the first ones allocate


class Stopwatch(Hook):
    """The times at which iterations end."""

    def __init__(self) -> None:
        self.ends = []

    def after_train_iter(self, runner: Runner, batch_idx: int, *_: object, **__: object) -> None:
        self.ends.append(perf_counter())


def seconds(shared: Config, own: Config, iterations: int, work_dir: str) -> list[float]:
    """Of each iteration of one Runner."""
    cfg = shared.copy()
    cfg.model = own.model.copy()
    cfg.model.data_preprocessor = shared.model.data_preprocessor.copy()
    cfg.model.data_preprocessor.batch_augments = None
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations + SKIPPED)
    cfg.update(param_scheduler=None, custom_hooks=[], work_dir=work_dir, log_level='ERROR')
    for part in ('val', 'test'):
        cfg.update({f'{part}_{name}': None for name in ('cfg', 'dataloader', 'evaluator')})
    cfg.experiment_name = f'{Path(own.filename).stem}_{perf_counter()}'
    cfg.default_hooks = dict.fromkeys(('checkpoint', 'logger', 'visualization', 'param_scheduler'))
    runner, watch = Runner.from_cfg(cfg), Stopwatch()
    runner.register_hook(watch)
    runner.train()
    return [b - a for a, b in zip(watch.ends[SKIPPED - 1 :], watch.ends[SKIPPED:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='+')
    parser.add_argument('--iterations', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=2)
    parser.add_argument('--out', type=Path, help='JSON file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfgs = [load_config(config) for config in args.configs]
    batch = cfgs[0].train_dataloader.batch_size
    times = [[] for _ in cfgs]
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with tempfile.TemporaryDirectory() as work_dir:
        for _ in range(args.rounds):
            for cfg, own in zip(cfgs, times, strict=True):
                own += seconds(cfgs[0], cfg, args.iterations, work_dir)
    rates = {
        Path(cfg.filename).stem: batch / median(own) for cfg, own in zip(cfgs, times, strict=True)
    }
    known = dict(hardware=f'one thread of {cpu_name()}', torch=torch.__version__)
    known |= dict(commit=source_commit(), batch=batch)
    print(*(f'{name}: {value}' for name, value in known.items()), sep=', ')
    for name, rate in rates.items():
        print(f'{name:70}{rate:8.2f} images/s')
    if args.out:
        args.out.write_text(json.dumps(known | dict(images_per_second=rates), indent=1) + '\n')


if __name__ == '__main__':
    main()
