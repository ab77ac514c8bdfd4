"""What can be said against a config before anything is built."""

import difflib
import inspect
from copy import deepcopy
from importlib.util import find_spec
from types import UnionType

import torch
from mmengine.config import Config
from mmengine.registry import METRICS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from castling_det.configs import (
    UNKNOWN_TYPE,
    errors_with_place,
    evaluators_of,
    paths,
    type_name,
    unwrap,
)
from castling_det.errors import InputError

DELETE = '_delete_'
ALIKE = 0.85  # of names that differ by a slip of the hand: backbon, backbone
# What is counted with, by the end of its path: type, lowest value, and in words.
NUMBERS = {
    'batch_size': (int, 1, 'a whole number of at least 1'),
    'num_workers': (int, 0, 'a whole number of at least 0'),
    'max_epochs': (int | float, 1, 'a whole number of at least 1'),
    'max_iters': (int | float, 1, 'a whole number of at least 1'),
    'val_interval': (int | float, 1, 'a whole number of at least 1'),
    'optimizer.lr': (int | float, 0, 'a number of at least 0, as 0.001'),
}
# The package that a backend of mmengine imports when it first writes.
NEEDS = {
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
    'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml',
    'NeptuneVisBackend': 'neptune',
    'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}
NUMBERS_IN = {'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'optim_wrapper'}
# What the Runner, or our tools, read from the config itself.
READ_BY_TOOLS = {
    'activation_checkpointing',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}


def check_options(cfg: Config, options: dict) -> None:
    """Refuse ``--cfg-options`` that would change nothing.

    Every key of a dotted path must exist, an integer below a list. A new key may start below a dict
    with a ``type``, whose building refuses what the type does not accept; below a data loader, the
    randomness, or at the top, if it is one of their arguments; and everywhere if it is `_delete_`.
    Variables of the config file are refused: they have been copied to where they are used.

    Raises:
        InputError: For the first path that is none of these; it names the nearest existing ones.
    """
    runner_arguments = READ_BY_TOOLS | _arguments(Runner) | _arguments(FlexibleRunner)
    arguments_of = {
        (): runner_arguments,
        ('randomness',): _arguments(Runner.set_randomness),
        **{(f'{split}_dataloader',): _arguments(DataLoader) for split in ('train', 'val', 'test')},
    }
    for path in options:
        keys = tuple(path.split('.'))
        reason = _fault(cfg, keys, arguments_of)
        if reason is None and keys[0] not in runner_arguments:
            reason = f'{keys[0]} is a variable of the file, already copied to where it is used'
            reason += _nearest(cfg, keys)
        if reason is not None:
            raise InputError(f'--cfg-options {path}: {reason}')


def check_parts(cfg: Config, *names: str) -> None:
    """Refuse a config that lacks a part of what a run is built from.

    Raises:
        InputError: Naming the parts.
    """
    lacking = [name for name in names if cfg.get(name) is None]
    if lacking:
        raise InputError(
            f'config {cfg.filename} has no {", no ".join(lacking)}: write them, or inherit them by '
            '_base_'
        )


def check_numbers(cfg: Config) -> None:
    """Refuse a text where torch or mmengine count with a number, wherever it comes from.

    Raises:
        InputError: Naming the first such key and its value.
    """
    for path, value in paths(cfg):
        for ending, (kind, lowest, words) in NUMBERS.items():
            is_it = f'.{path}'.endswith(f'.{ending}') and path.partition('.')[0] in NUMBERS_IN
            if is_it and value is not None and not _is_number(value, kind, lowest):
                raise InputError(f'{path} is {value!r}: write {words}')


def check_device(cfg: Config) -> None:
    """Refuse mmengine's mixed precision without a GPU.

    Raises:
        InputError: For an ``AmpOptimWrapper``, which mmengine has for GPUs alone.
    """
    if type_name(cfg.optim_wrapper) == 'AmpOptimWrapper' and not torch.cuda.is_available():
        raise InputError(
            'optim_wrapper.type=AmpOptimWrapper needs a GPU: leave it out, and --amp chooses what '
            'a CPU has, BFloat16OptimWrapper'
        )


def check_vis_backends(cfg: Config) -> None:
    """Refuse a backend of the log (``visualizer.vis_backends``) whose package is not installed.

    Raises:
        InputError: Naming it and the package.
    """
    for index, backend in enumerate((cfg.get('visualizer') or {}).get('vis_backends') or ()):
        package = NEEDS.get(type_name(backend))
        if package is not None and find_spec(package) is None:
            raise InputError(
                f'visualizer.vis_backends.{index}: {type_name(backend)} needs the package '
                f'{package}: pip install {package}, or take it out'
            )


def check_evaluator(cfg: Config, split: str) -> None:
    """Build the metrics of a split alone, so that what they refuse is refused at the start.

    mmdet's ``CocoMetric`` would refuse no sooner than after the last batch to compare with nothing,
    or masks where there are none.

    Args:
        cfg (Config): With ``default_scope``.
        split (str): 'val' or 'test'.

    Raises:
        InputError: With the key and the reason, of the metric's own library where it has one.
    """
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine'))
    with scope, errors_with_place(cfg):
        for metric in evaluators_of(cfg, split):
            try:
                METRICS.build(deepcopy(metric))
            except (AssertionError, KeyError, ValueError) as error:
                if UNKNOWN_TYPE.match(str(error.args[0])):
                    raise
                raise InputError(
                    f'{split}_evaluator: {type_name(metric)} does not take its arguments: '
                    f'{error.args[0]}'
                ) from error
            if type_name(metric) == 'CocoMetric':
                _check_coco_metric(cfg, split, metric)


def _check_coco_metric(cfg: Config, split: str, metric: dict) -> None:
    datasets = unwrap((cfg.get(f'{split}_dataloader') or {}).get('dataset'))
    steps = [step for _, dataset in datasets for step in dataset.get('pipeline', ())]
    if metric.get('ann_file') is None and not any(
        'instances' in step.get('meta_keys', ()) for step in steps
    ):
        raise InputError(
            f'{split}_evaluator has no ann_file to compare predictions with: set it to the '
            f'annotations of {split}_dataloader'
        )
    wanted = metric.get('metric', 'bbox')
    finds_masks = any('mask' in path for path, _ in paths(cfg.get('model', {})))
    if 'segm' in ([wanted] if isinstance(wanted, str) else wanted) and not finds_masks:
        raise InputError(
            f"{split}_evaluator.metric is {wanted!r}, but the model finds boxes alone: take 'bbox'"
        )


def _fault(cfg: Config, keys: tuple[str, ...], arguments_of: dict) -> str | None:
    node = cfg
    for depth, key in enumerate(keys):
        parent = '.'.join(keys[:depth]) or 'the config'
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                return f'{parent} is a list of {len(node)}, and {key} is no index of it'
            node = node[int(key)]
        elif not isinstance(node, dict | Config):
            return f'{parent} is {node!r}, not a dict'
        elif key in node:
            node = node[key]
        elif key == DELETE or 'type' in node or key in arguments_of.get(keys[:depth], ()):
            section = _misspelt_section(node, keys[depth:])
            return section and f'{parent} has no {key!r}; the nearest are {parent}.{section}'
        else:
            return f'{parent} has no {key!r}{_nearest(cfg, keys)}'
    return None


def _misspelt_section(node: dict | Config, keys: tuple[str, ...]) -> str | None:
    """A dict or list of the node that is named nearly as the first of several keys."""
    sections = [key for key, value in node.items() if isinstance(value, dict | list)]
    close = difflib.get_close_matches(keys[0], sections, n=1, cutoff=ALIKE) if keys[1:] else []
    return close[0] if close else None


def _is_number(value: object, kind: type | UnionType, lowest: int) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value >= lowest


def _nearest(cfg: Config, keys: tuple[str, ...]) -> str:
    everything = [path for path, _ in paths(cfg)]
    same_name = [path for path in everything if path.endswith(f'.{keys[-1]}')]
    wanted = '.'.join(keys)
    candidates = [path for path in same_name if path != wanted] or everything
    close = difflib.get_close_matches(wanted, candidates, n=3, cutoff=0.4)
    return f'; the nearest are {", ".join(close)}' if close else ''


def _arguments(function: type) -> set[str]:
    return set(inspect.signature(function).parameters)
