"""What the command-line tools share: arguments, reading a config, errors in one sentence."""

import argparse
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.utils import import_modules_from_strings

from castling_det.checkpoint import refuse_unsafe_checkpoints
from castling_det.engine.config_checks import check_numbers, check_options
from castling_det.engine.console import quiet_console
from castling_det.errors import InputError

TRACKERS = dict(tensorboard='TensorboardVisBackend', wandb='WandbVisBackend')  # of mmengine


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``config`` and ``--cfg-options``, as mmdet's tools have them."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override: key=value ...'
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir`` and ``--launcher``, as mmdet's tools have them."""
    parser.add_argument('--work-dir', help='logs and results; default work_dirs/CONFIG_NAME')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # What launchers older than torchrun say on the command line; torchrun sets the variable.
    parser.add_argument('--local_rank', '--local-rank', default='0', help=argparse.SUPPRESS)


def add_trackers(cfg: Config, names: Sequence[str]) -> None:
    """Let a training write its scalars, and the pictures of validations, to these too.

    Args:
        cfg (Config): Changed in place.
        names (Sequence[str]): Some of :data:`TRACKERS`.
    """
    cfg.setdefault('visualizer', dict(type='Visualizer'))
    backends = cfg.visualizer.get('vis_backends') or [dict(type='LocalVisBackend')]
    cfg.visualizer.vis_backends = [*backends, *(dict(type=TRACKERS[name]) for name in names)]


def load_config(filename: str | Path, cfg_options: dict | None = None) -> Config:
    """Read a config; from then on every checkpoint is read safely.

    Args:
        filename (str | Path): Config file.
        cfg_options (dict, optional): Dotted keys and values that override it.

    Raises:
        InputError: If it, or a base of it, does not exist, cannot be read, or lacks a key that the
            options name.
    """
    refuse_unsafe_checkpoints()
    if not Path(filename).is_file():
        raise InputError(f'config {filename} does not exist')
    try:
        cfg = Config.fromfile(filename, import_custom_modules=False)
    except SyntaxError as error:
        line = f'line {error.lineno}, {(error.text or "").strip()!r}'
        raise InputError(f'config {filename}, or a base of it: {line}: {error.msg}') from error
    except Exception as error:  # a config is executed, and may raise anything
        raise InputError(f'config {filename} cannot be read: {_reason(error)}') from error
    if 'custom_imports' in cfg:
        try:
            import_modules_from_strings(**cfg.custom_imports)
        except (ImportError, TypeError) as error:
            reason = error.__context__ or error
            raise InputError(f'config {filename} cannot be read: {reason}') from error
    check_options(cfg, cfg_options or {})
    cfg.merge_from_dict(cfg_options or {})
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader and loader.get('num_workers', 0) == 0:  # torch refuses what is for workers alone
            loader.pop('prefetch_factor', None)
            loader.pop('persistent_workers', None)
    return cfg


def _reason(error: Exception) -> str:
    """What is wrong, after the line at fault where a config, or a base of it, was executed."""
    reason = ' '.join(str(error).split())
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.name == '<module>':
            place = f'{Path(frame.filename).name}, line {frame.lineno}'
            return f'{place}: {type(error).__name__}: {reason}'
    return reason


def load_run_config(args: argparse.Namespace) -> Config:
    """Read a config for a Runner, with what :func:`add_run_arguments` added.

    The work dir is the one on the command line, in the config, or ``work_dirs/CONFIG_NAME``.

    Raises:
        InputError: As :func:`load_config`, or if a text stands where a number is counted with.
    """
    os.environ.setdefault('LOCAL_RANK', args.local_rank)
    cfg = load_config(args.config, args.cfg_options)
    check_numbers(cfg)
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    )
    return cfg


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """Leave with the message alone where the input is at fault; all else keeps its traceback.

    Ctrl-C is no fault, and needs none. Until then the console is quiet.
    """
    try:
        with quiet_console():
            yield
    except InputError as error:
        raise SystemExit(f'error: {error}') from error
    except KeyboardInterrupt as stop:
        sys.stderr.write('stopped\n')
        raise SystemExit(130) from stop
