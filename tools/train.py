"""Train a model: ``python tools/train.py CONFIG``."""

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

import castling_det  # noqa: F401  makes `castling_det::` configs known before a config is read
from castling_det.checkpoint import refuse_unsafe_checkpoints


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='logs and checkpoints; default work_dirs/CONFIG_NAME')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a name from the last one of the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale lr with the total batch size'
    )
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
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.amp:
        if not torch.cuda.is_available():
            raise SystemExit('--amp needs a GPU: mmengine scales the loss for float16 there only')
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise SystemExit(f'--auto-scale-lr: {args.config} lacks auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    runner = Runner.from_cfg(cfg)
    runner.train()
    print(f'Checkpoints: {cfg.work_dir}\nLog: {runner.log_dir}')


if __name__ == '__main__':
    main()
