"""Test a model, in the form that ships: ``python tools/test.py CONFIG CHECKPOINT``."""

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

import castling_det  # noqa: F401  makes `castling_det::` configs known before a config is read
from castling_det.checkpoint import refuse_unsafe_checkpoints


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='metrics; default work_dirs/CONFIG_NAME')
    parser.add_argument('--out', help='file for the predictions (.pkl)')
    parser.add_argument('--show-dir', help='folder for pictures: ground truth | prediction')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override: key=value ...'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    args = parse_args()
    refuse_unsafe_checkpoints()
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    cfg.merge_from_dict(args.cfg_options or {})
    if args.work_dir or cfg.get('work_dir') is None:
        cfg.work_dir = args.work_dir or str(Path('work_dirs') / Path(args.config).stem)
    cfg.load_from = args.checkpoint
    if args.show_dir:
        cfg.default_hooks.visualization.update(
            draw=True, interval=1, test_out_dir=str(Path(args.show_dir).absolute())
        )
    runner = Runner.from_cfg(cfg)
    if args.out:
        runner.test_evaluator.metrics.append(DumpResults(args.out))
    runner.test()
    print(f'Checkpoint: {args.checkpoint}\nLog: {runner.log_dir}')
    if args.show_dir:
        print(f'Pictures (ground truth | prediction): {args.show_dir}')


if __name__ == '__main__':
    main()
