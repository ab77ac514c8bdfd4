"""Test a model, in the form that ships: ``python tools/test.py CONFIG CHECKPOINT``."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.fileio import load
from mmengine.registry import RUNNERS

from castling_det.checkpoint import require_file
from castling_det.configs import (
    errors_with_place,
    evaluators_of,
    task_of,
    type_name,
)
from castling_det.datasets.checks import check_datasets
from castling_det.engine.cli import (
    add_config_arguments,
    add_run_arguments,
    errors_in_one_sentence,
    load_run_config,
)
from castling_det.engine.config_checks import check_evaluator, check_parts
from castling_det.engine.distributed import is_first_process, start_processes
from castling_det.engine.test_time_augmentation import add_test_time_augmentation
from castling_det.hooks.checkpoint_fit_hook import refuse_other_checkpoints
from castling_det.hooks.console_hook import ConsoleHook
from castling_det.hooks.training_form_hook import TrainingFormHook
from castling_det.output_files import require_writable
from castling_det.visualization.hooks import LabelMapHook, OverlayHook


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    add_run_arguments(parser)
    parser.add_argument(
        '--out',
        help='for the predictions: a file (.pkl), or of a segmentor a folder for label maps (.png)',
    )
    parser.add_argument('--show-dir', help='folder for pictures of truth and prediction')
    parser.add_argument(
        '--tta', action='store_true', help="test-time augmentation: flips, or the config's own"
    )
    parser.add_argument(
        '--form',
        choices=['training', 'inference'],
        default='inference',
        help='training: with the auxiliary branches, at the ramp of the checkpoint',
    )
    return parser.parse_args()


def lacks_annotations(evaluator: dict) -> bool:
    """Whether it reads a COCO json of images alone, as of a test set whose truth is kept back."""
    path = evaluator.get('ann_file')
    if type_name(evaluator) != 'CocoMetric' or path is None or not Path(path).is_file():
        return False
    content = load(path)
    return isinstance(content, dict) and not content.get('annotations')


def test(cfg: Config, args: argparse.Namespace) -> None:
    check_parts(cfg, 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
    is_segmentor = task_of(cfg) == 'segmentation'
    if args.out and args.out.endswith(('.pkl', '.pickle')) == is_segmentor:
        is_to = 'be a folder, for label maps' if is_segmentor else 'end in .pkl'
        raise SystemExit(f'error: --out {args.out} is to {is_to}')
    require_writable(cfg.work_dir)
    if args.out:
        require_writable(args.out if is_segmentor else Path(args.out).parent, '--out')
    if args.show_dir:
        require_writable(args.show_dir, '--show-dir')
    require_file(args.checkpoint)
    cfg.load_from = args.checkpoint
    for evaluator in evaluators_of(cfg, 'test'):
        if args.out and not is_segmentor and lacks_annotations(evaluator):
            evaluator.update(format_only=True, outfile_prefix=str(Path(args.out).with_suffix('')))
    if is_first_process():
        check_datasets(cfg, ('test',), decode=True)
        check_evaluator(cfg, 'test')
    if args.tta:
        add_test_time_augmentation(cfg)
    start_processes(cfg)
    runner = RUNNERS.build(cfg)
    refuse_other_checkpoints(runner)
    if args.form == 'training':
        runner.register_hook(TrainingFormHook())
    if args.show_dir:
        runner.register_hook(OverlayHook(draw=True, test_out_dir=args.show_dir))
    if args.out and is_segmentor:
        runner.register_hook(LabelMapHook(args.out))
    elif args.out:
        runner.test_evaluator.metrics.append(DumpResults(args.out))
    runner.register_hook(ConsoleHook())
    runner.test()
    if args.show_dir:
        print(f'Pictures of truth and prediction: {args.show_dir}')


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        cfg = load_run_config(args)
        with errors_with_place(cfg):
            test(cfg, args)


if __name__ == '__main__':
    main()
