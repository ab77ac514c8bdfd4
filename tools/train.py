"""Train a model: ``python tools/train.py CONFIG``."""

import argparse

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import find_latest_checkpoint

from castling_det.configs import errors_with_place
from castling_det.datasets.checks import check_datasets
from castling_det.engine.cli import (
    add_config_arguments,
    add_run_arguments,
    errors_in_one_sentence,
    load_run_config,
)
from castling_det.engine.config_checks import (
    check_checkpoint,
    check_input_size,
    check_parts,
    check_work_dir,
)
from castling_det.engine.distributed import is_first_process, start_processes
from castling_det.engine.dry_run import dry_run
from castling_det.hooks.checkpoint_fit_hook import refuse_other_checkpoints


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a name from the last one of the work dir, if any',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale lr with the total batch size'
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='two iterations and a validation batch; say the time and memory of the whole',
    )
    return parser.parse_args()


def train(cfg: Config, args: argparse.Namespace) -> None:
    check_parts(cfg, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    if args.resume and args.dry_run:
        raise SystemExit('error: --dry-run starts from the beginning: leave --resume out')
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.amp:
        if not torch.cuda.is_available():
            raise SystemExit(
                'error: --amp needs a GPU: mmengine scales the loss for float16 there only'
            )
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise SystemExit(
                f'error: --auto-scale-lr: {args.config} lacks auto_scale_lr.base_batch_size'
            )
        cfg.auto_scale_lr.enable = True
    check_work_dir(cfg.work_dir)
    check_checkpoint(cfg.get('load_from'))
    check_input_size(cfg)
    if is_first_process():
        check_datasets(cfg, ('train',))
        if cfg.get('val_dataloader'):  # what cannot be read there would end the training
            check_datasets(cfg, ('val',), decode=True)
    start_processes(cfg)
    if args.dry_run:
        report = dry_run(cfg).report()
        if is_first_process():
            print(f'Dry run of {args.config}: no fault found\n{report}')
        return
    if args.resume == 'auto' and find_latest_checkpoint(cfg.work_dir) is None:
        print(f'--resume: {cfg.work_dir} holds no checkpoint; training starts from the beginning')
    runner = RUNNERS.build(cfg)
    refuse_other_checkpoints(runner)
    runner.train()
    print(f'Checkpoints: {cfg.work_dir}\nLog: {runner.log_dir}')


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        cfg = load_run_config(args)
        with errors_with_place(cfg):
            train(cfg, args)


if __name__ == '__main__':
    main()
