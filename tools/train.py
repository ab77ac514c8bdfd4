"""Train a model: ``python tools/train.py CONFIG``."""

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import find_latest_checkpoint

from castling_det.checkpoint import require_file
from castling_det.configs import errors_with_place
from castling_det.datasets.checks import check_datasets
from castling_det.engine.cli import (
    TRACKERS,
    add_config_arguments,
    add_run_arguments,
    add_trackers,
    errors_in_one_sentence,
    load_run_config,
)
from castling_det.engine.config_checks import (
    check_device,
    check_evaluator,
    check_parts,
    check_vis_backends,
)
from castling_det.engine.distributed import is_first_process, start_processes
from castling_det.engine.dry_run import dry_run
from castling_det.engine.runner_checks import check_runner, single_images_named
from castling_det.hooks.checkpoint_fit_hook import refuse_other_checkpoints
from castling_det.hooks.console_hook import ConsoleHook
from castling_det.hooks.preemption_hook import Preempted, PreemptionHook
from castling_det.output_files import require_writable
from castling_det.visualization.hooks import LastValidationHook


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
    parser.add_argument('--amp', action='store_true', help='mixed precision, bfloat16 on a CPU')
    parser.add_argument(
        '--log-to', nargs='+', choices=list(TRACKERS), default=[], help='besides the log file'
    )
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
        resume(cfg, args.resume)
    if args.amp:
        gpu = torch.cuda.is_available()
        cfg.optim_wrapper.type = 'AmpOptimWrapper' if gpu else 'BFloat16OptimWrapper'
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise SystemExit(
                f'error: --auto-scale-lr: {args.config} lacks auto_scale_lr.base_batch_size'
            )
        cfg.auto_scale_lr.enable = True
    require_writable(cfg.work_dir)
    if cfg.get('load_from') is not None:
        require_file(cfg.load_from)
    check_device(cfg)
    add_trackers(cfg, args.log_to)
    check_vis_backends(cfg)
    if is_first_process():
        check_datasets(cfg, ('train',))
        if cfg.get('val_dataloader'):  # what cannot be read there would end the training
            check_datasets(cfg, ('val',), decode=True)
            check_evaluator(cfg, 'val')
    start_processes(cfg)
    if args.dry_run:
        report = dry_run(cfg).report()
        if is_first_process():
            print(f'Dry run of {args.config}: no fault found\n{report}')
        return
    runner = RUNNERS.build(cfg)
    refuse_other_checkpoints(runner)
    check_runner(runner)
    pictures = Path(cfg.work_dir) / 'pictures'
    for hook in (PreemptionHook(), LastValidationHook(pictures), ConsoleHook(pictures)):
        runner.register_hook(hook)
    with single_images_named():
        runner.train()


def resume(cfg: Config, checkpoint: str) -> None:
    """Go on from a checkpoint, or, where 'auto' finds none, from what the config says."""
    if checkpoint == 'auto':
        checkpoint = find_latest_checkpoint(cfg.work_dir)
    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, checkpoint
    elif is_first_process():
        start = f'the weights of {cfg.load_from}' if cfg.get('load_from') else 'the beginning'
        print(f'--resume: {cfg.work_dir} holds no checkpoint; training starts from {start}')


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        cfg = load_run_config(args)
        try:
            with errors_with_place(cfg):
                train(cfg, args)
        except KeyboardInterrupt as stop:
            last = Path(cfg.work_dir) / 'last_checkpoint'
            onward = 'starts anew, there is no checkpoint yet'
            if last.is_file():
                onward = f'goes on from {last.read_text()}'
            if is_first_process():
                by = f' by {stop}' if str(stop) else ''
                print(f'stopped{by}: the same command with --resume {onward}')
            sys.exit(143 if isinstance(stop, Preempted) else 130)


if __name__ == '__main__':
    main()
