"""What a config says, asked in one place; nothing here changes the config that it is given."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import mmengine.registry
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from castling_det.errors import InputError
from castling_det.models.levit import CastlingLeViT

__all__ = ['build_model', 'input_shape', 'softmax_twin', 'task_of']  # what is public

UNKNOWN_TYPE = re.compile(r'(?P<type>\S+) is not in the \S+ registry')  # as mmengine raises it
UNKNOWN_ARGUMENT = re.compile(  # as Python does
    r"(?P<type>\w+)\.__init__\(\) got an unexpected keyword argument '(?P<argument>\w+)'"
)


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, with new weights, for one process on any device.

    Args:
        cfg (Config): With ``model``, and the ``default_scope`` that its types are found in.

    Raises:
        InputError: For a type or an argument that does not exist.
    """
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine'))
    with scope, errors_with_place(cfg):
        return revert_sync_batchnorm(MODELS.build(deepcopy(cfg.model)))  # building writes into it


def softmax_twin(cfg: Config, shape: tuple[int, int] | None = None) -> Config:
    """The same config with softmax attention in its backbone.

    Args:
        cfg (Config): With a Castling backbone.
        shape (tuple[int, int], optional): Height and width of the images, whose grid LeViT's logit
            biases have. Defaults to :func:`input_shape`.

    Raises:
        InputError: If the backbone is another one.
    """
    kind = type_name(cfg.model.get('backbone', {}))
    if not kind.startswith('Castling'):
        raise InputError(
            f'{cfg.filename}: only a Castling backbone has a softmax twin, not {kind or "none"}'
        )
    twin = deepcopy(cfg)
    twin.model.backbone.attn = dict(type='SoftmaxAttention')
    if kind == 'CastlingLeViT':
        shape = shape or input_shape(cfg)
        twin.model.backbone.bias_grid = tuple(-(-side // CastlingLeViT.stride) for side in shape)
    return twin


def task_of(cfg: Config) -> str:
    """'pretraining' (MAE), 'segmentation' (by ``decode_head``), 'classification', 'detection'."""
    if type_name(cfg.model) == 'MAE':
        return 'pretraining'
    if 'decode_head' in cfg.model:
        return 'segmentation'
    return 'classification' if 'head' in cfg.model else 'detection'


def refuse_pretraining(cfg: Config, what: str) -> None:
    """Say what there is none of before a model has its task; a config of data alone passes.

    Raises:
        InputError: For MAE.
    """
    if _is_pretraining(cfg):
        raise InputError(
            f'{cfg.filename}: there are no {what} of a pretraining: its encoder goes to the '
            "backbone's init_cfg (docs/mae.md)"
        )


def input_shape(cfg: Config) -> tuple[int, int]:
    """Height and width of what the model sees in the test that its config describes.

    Where the test pipeline leaves them to each image they are those of mmseg's
    ``model.data_preprocessor.size``, the crop that the model is trained on. A pretraining has no
    test: they are those of its training.

    Raises:
        InputError: If neither says them.
    """
    scale = shape = None  # width and height, as the transforms have them
    for transform in _pipeline(cfg, 'train' if _is_pretraining(cfg) else 'test'):
        kind = type_name(transform)
        if kind == 'Resize' and 'scale' in transform:
            scale = _pair(transform['scale'])
            shape = None if transform.get('keep_ratio', False) else scale
        elif kind == 'CenterCrop':
            shape = _pair(transform['crop_size'])
        elif kind == 'RandomResizedCrop':
            shape = _pair(transform['scale'])
        elif kind == 'Pad' and transform.get('size') is not None:
            shape = _pair(transform['size'])
        elif kind == 'Pad' and transform.get('pad_to_square', False) and scale is not None:
            shape = (max(scale), max(scale))
    if shape is not None:
        return shape[1], shape[0]
    crop = (cfg.get('model', {}).get('data_preprocessor') or {}).get('size')
    if crop is None:
        raise InputError(
            f'{cfg.filename}: test_dataloader.dataset.pipeline fixes no input size (by a Resize '
            'with `scale` and without keep_ratio, a CenterCrop or a Pad), and there is no '
            'model.data_preprocessor.size: give it as --shape H W'
        )
    return tuple(crop)


def evaluators_of(cfg: Config, split: str) -> list[dict]:
    """The metrics of 'val' or 'test': a config has one, several or none."""
    evaluators = cfg.get(f'{split}_evaluator') or []
    return evaluators if isinstance(evaluators, list) else [evaluators]


def type_name(node: dict) -> str:
    """The name of a ``type``, which may be a text, with its scope or not, or the class itself."""
    kind = node.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def unwrap(dataset: dict | None, key: str = 'dataset') -> Iterator[tuple[str, dict]]:
    """Data sets inside of ConcatDataset, RepeatDataset, MultiImageMixDataset and the like.

    Args:
        dataset (dict, optional): Config of a data set or of a wrapper; None has none inside.
        key (str): Where it stands in its config. Defaults to 'dataset'.

    Yields:
        tuple[str, dict]: Key and config of each that is no wrapper.
    """
    if dataset is None:
        return
    if 'datasets' in dataset:
        for number, inner in enumerate(dataset['datasets']):
            yield from unwrap(inner, f'{key}.datasets.{number}')
    elif 'dataset' in dataset:
        yield from unwrap(dataset['dataset'], f'{key}.dataset')
    else:
        yield key, dataset


def paths(node: Config | dict | list, prefix: str = '') -> Iterator[tuple[str, object]]:
    """Dotted paths to all that is below a node, and what is there."""
    below = enumerate(node) if isinstance(node, list) else node.items()
    for key, value in below:
        yield f'{prefix}{key}', value
        if isinstance(value, dict | list):
            yield from paths(value, f'{prefix}{key}.')


@contextmanager
def errors_with_place(cfg: Config) -> Iterator[None]:
    """Say where in a config a type or an argument stands that does not exist.

    What fails inside of a type that does exist keeps its traceback.

    Raises:
        InputError: With file, place and name.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        reason = _unbuildable(cfg, str(error.args[0]) if error.args else '')
        if reason is None:
            raise
        raise InputError(f'{cfg.filename}, {reason}') from error


def _is_pretraining(cfg: Config) -> bool:
    return 'model' in cfg and task_of(cfg) == 'pretraining'


def _pipeline(cfg: Config, split: str) -> list[dict]:
    wrapped = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    _, dataset = next(unwrap(wrapped), ('', {}))
    return dataset.get('pipeline', cfg.get(f'{split}_pipeline', []))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _unbuildable(cfg: Config, message: str) -> str | None:
    if found := UNKNOWN_TYPE.match(message):
        for path, value in paths(cfg):
            if path.endswith('type') and value == found['type']:
                return (
                    f'{path}: no {value!r} is registered{_nearest_type(value)}; one of your own '
                    'needs its module in custom_imports'
                )
    if found := UNKNOWN_ARGUMENT.match(message):
        for path, node in paths(cfg):
            is_it = isinstance(node, dict) and type_name(node) == found['type']
            if is_it and found['argument'] in node:
                return f'{path}: {found["type"]} takes no argument {found["argument"]!r}'
    return None


def _nearest_type(wanted: str) -> str:
    roots = [each for each in vars(mmengine.registry).values() if isinstance(each, Registry)]
    registries = [each for root in roots for each in (root, *root.children.values())]
    names = {name for registry in registries for name in registry.module_dict}
    close = difflib.get_close_matches(wanted.rpartition('.')[2], sorted(names), n=3)
    return f'; the nearest are {", ".join(close)}' if close else ''
