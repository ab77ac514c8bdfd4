"""Checkpoints: read without executing what a pickle may hold, and fitted to a model."""

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.errors import InputError
from castling_det.paddle import read_pdparams

StateDict = Mapping[str, Tensor]

SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.tar', '.pkl', '.safetensors', '.npz', '.pdparams')
# Where weights lie in a file. An average goes before its original, as it is what is evaluated; mm
# libraries have it as `state_dict`.
_CONTAINERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'model_state', 'teacher')

# What a file may hold beyond the model: classifiers and poolings, the decoder and mask of MAE, the
# token of a distilled DeiT; in our own keys what an argument leaves out.
_ENDS = re.compile(
    r'(\w*head|head_dist|\w*classifier|fc|last_conv|pre_logits|pooler|attn_pool|fc_norm|ln2'
    r'|decoder\w*|mask_token|dist_token|text_model|text_projection|visual_projection'
    r'|logit_scale|logit_bias|norms)'
    r'(\.|$)|(backbone\.)?(embed\.cls_token|norm\.(weight|bias))$'
)
_HEADS = re.compile(r'\w*head\.')  # of the model; another number of classes changes them
_BLOCK = re.compile(r'(?P<stack>(backbone\.)?(blocks|stages))\.(?P<number>\d+)\.')
_COUNTERS = ('num_batches_tracked', 'attention_bias_idxs', 'n_averaged')
# Of linear attention, in our own models and below castlify's child; no softmax model has it.
_NEW = re.compile(r'.*\.(attn\.conv\.weight$|castling\.)')
_MAP_NORMS = re.compile(r'norms\.')  # of MViTv2; a classifier has that of its last map alone
_BIASES = '.attn.bias.table'  # of LeViT's softmax, which linear attention drops

_SWITCHES = {  # arguments by which a model does without
    'embed.cls_token': 'with_cls_token=False',
    'norm.weight': 'final_norm=False',
    'norm.bias': 'final_norm=False',
}
_GRIDS = {  # weights on a grid, and how their modules bring them to another
    'embed.pos_embed': dict(mode='bicubic', align_corners=False),
    _BIASES: dict(mode='bilinear', align_corners=True),
}
_FOREIGN = {  # parts that our blocks have not, by what keys of other libraries hold
    'LayerScale': r'\bls[12]\b|layer_?scale|gamma_[12]\b|lambda_?[12]\b',
    'norms of q and k': r'\b[qk]_norm|\b(query|key)_norm',
    'register tokens': r'reg(ister)?_tokens?\b',
    'rotary positions': r'\brope|freqs',
    'relative positions': r'rel_pos|relative_position',
    'a norm before the blocks': r'norm_pre|pre_layrnorm|pre_norm',
    'a gated MLP': r'gate|\bw(12|3)\b|fc1_[gx]|weights_in',
    'biases of q or v alone': r'[qv]_bias|attn\.[qv]\.bias',
}


def _statistics_method(owner: Any, name: str) -> Callable:
    """What ``getattr`` may do in a pickle: name a statistic of :class:`HistoryBuffer`.

    Allowing ``getattr`` itself, as mmengine does, opens the way to any function.
    """
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'it reaches for the attribute {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)


# What a Runner checkpoint holds beside tensors and plain containers: its message hub's buffers.
_RUNNER_TYPES = [
    HistoryBuffer,
    (_statistics_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    np._core.multiarray._reconstruct,
    np._core.multiarray.scalar,
    (np._core.multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),  # of NumPy 1
    (np._core.multiarray.scalar, 'numpy.core.multiarray.scalar'),
    argparse.Namespace,  # the arguments of a training script: attributes, and nothing to call
]


def require_file(filename: str | Path) -> Path:
    """The local file that a checkpoint is read from.

    Raises:
        InputError: If it does not exist, or is an address or the name of a hub.
    """
    path = Path(filename).expanduser()
    if path.is_file():
        return path
    if '://' in str(filename) or not (path.exists() or path.suffix in SUFFIXES):
        raise InputError(
            f'checkpoint {filename} is not local, and nothing is downloaded here: download it, '
            'and give the file'
        )
    raise InputError(
        f'checkpoint {filename} {"is a folder: give a file" if path.exists() else "does not exist"}'
    )


def read_checkpoint(filename: str | Path, map_location: str = 'cpu') -> dict[str, Any]:
    """Read a local checkpoint as data; nothing in it is executed.

    Args:
        filename (str | Path): Local file: of ``torch.save``, read by ``weights_only=True`` with a
            short list of allowed types, ``.safetensors``, ``.npz``, or PaddlePaddle's
            ``.pdparams``.
        map_location (str): Device of the tensors. Defaults to 'cpu'.

    Returns:
        dict[str, Any]: Its content; of the last three kinds the tensors by their names, which
        :func:`read_pdparams` makes ours.

    Raises:
        InputError: If the file does not exist, is an address or the name of a hub, is damaged or no
            checkpoint, or holds anything but data.
    """
    path = require_file(filename)
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file  # timm brings it; castling_det does without

            return load_file(path, device=str(map_location))
        if path.suffix == '.npz':
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.tensor(arrays[key], device=map_location) for key in arrays.files}
        if path.suffix == '.pdparams':
            return read_pdparams(path, map_location)
        with torch.serialization.safe_globals(_RUNNER_TYPES):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # what readers raise on other bytes has no common type
        if called := re.search(r'\bGLOBAL (\S+)', str(error)):
            name = called[1] if '.' in called[1] else f'builtins.{called[1]}'
            raise InputError(
                f'{filename} holds more than data and is not read: it wants to call {name}, which '
                'can do anything; take the weights from a source that gives them as .safetensors'
            ) from error
        detail = str(error).rpartition('WeightsUnpickler error: ')[2].strip().partition('\n')[0]
        raise InputError(
            f'{filename} is damaged or no checkpoint: {type(error).__name__}: {detail}'
        ) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'{filename} holds a {type(checkpoint).__name__}, not a checkpoint')
    return checkpoint


def refuse_unsafe_checkpoints() -> None:
    """Make every load of mmengine's Runner go through :func:`read_checkpoint`.

    mmengine's own loaders fall back to, or start with, ``weights_only=False``, which executes a
    pickle's code. Remote schemes (http, s3, ...) are read by none. Its ``resume`` executes the text
    ``meta['config']`` as a config, which mmengine's own checkpoints have not: it is dropped.
    """

    def load(filename: str, map_location: str | None = None) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename, map_location or 'cpu')
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return checkpoint

    for scheme in ['', *CheckpointLoader._schemes]:
        CheckpointLoader.register_scheme(scheme, load, force=True)


def weights_of(checkpoint: Mapping[str, Any], filename: str | Path) -> StateDict:
    """The weights in a checkpoint, under ``state_dict``, ``model`` or the like, or all that it is.

    Args:
        checkpoint (Mapping): As :func:`read_checkpoint` returns it.
        filename (str | Path): For the message.

    Returns:
        OrderedDict[str, Tensor]: By keys without the prefixes of wrappers; averages, if there are.

    Raises:
        InputError: If it holds no tensor.
    """
    inside = (checkpoint.get(key) for key in _CONTAINERS)
    stored = next((each for each in inside if isinstance(each, Mapping)), checkpoint)
    weights = OrderedDict((_bare(key), v) for key, v in stored.items() if isinstance(v, Tensor))
    if not weights:
        raise InputError(f'{filename} holds no weights, but {", ".join(list(stored)[:5])}')
    weights._metadata = getattr(stored, '_metadata', OrderedDict())  # versions of its modules
    return weights


def load_weights(
    model: nn.Module,
    filename: str | Path,
    convert: Callable[[StateDict], StateDict] = OrderedDict,
    strict: bool = True,
    prefix: str = '',
) -> dict[str, Any]:
    """Load a file into a model: whole, or not at all with an error that names what does not fit.

    Args:
        model (nn.Module): Receives the weights; may be wrapped.
        filename (str | Path): As for :func:`read_checkpoint`.
        convert (Callable): From the file's key layout to the model's; a key without a counterpart
            keeps its name. Defaults to the same layout.
        strict (bool): As for :func:`fit_weights`; what it allows is logged. Defaults to True.
        prefix (str): Only keys below it are used, without it ('backbone' for a detector's file).

    Returns:
        dict[str, Any]: All that the file holds.

    Raises:
        InputError: If the file is not read, or does not fit.
    """
    checkpoint = read_checkpoint(filename)
    weights = weights_of(checkpoint, filename)
    if prefix:
        stem = prefix.rstrip('.') + '.'
        below = {k.removeprefix(stem): v for k, v in weights.items() if k.startswith(stem)}
        if not below:
            firsts = sorted({key.partition('.')[0] for key in weights})
            raise InputError(
                f'{filename} has no keys that start with {stem} (prefix), but with '
                f'{", ".join(firsts[:6])}'
            )
        weights = below
    weights, report = fit_weights(model, convert(weights), filename, strict)
    names = {_bare(key): key for key in model.state_dict()}
    model.load_state_dict({names[key]: value for key, value in weights.items()}, strict=False)
    if not strict:
        MMLogger.get_current_instance().info(report)
    return checkpoint


def fit_weights(
    model: nn.Module, weights: StateDict, filename: str | Path, strict: bool
) -> tuple[StateDict, str]:
    """Compare weights with the model that is to load them, by key and shape.

    Args:
        model (nn.Module): May be wrapped. What it renames while it loads does not fit.
        weights (StateDict): By the model's keys, as :func:`weights_of` gives them.
        filename (str | Path): For the messages.
        strict (bool): Whether everything has to fit, to test a model and to go on with a training.
            A training that starts may have new what linear attention adds, norms of maps, and heads
            of other classes; of the file it may leave heads, logit biases of softmax, what MAE and
            distillation add, and the blocks that a module names in ``unbuilt``, by the starts of
            their keys. Grids of positions are resized then.

    Returns:
        tuple[StateDict, str]: The weights that are to be loaded, and a line for the log.

    Raises:
        InputError: Naming what the file does not fill, what of it the model lacks, and shapes.
    """
    own = {_bare(key): value.shape for key, value in model.state_dict().items()}
    if not own.keys() & weights.keys():
        raise InputError(
            f'{filename} is of another model: none of its {len(weights)} keys ({_named(weights)}) '
            f'is one of the {len(own)} of {type(model).__name__} ({_listed(own)}); give the config '
            'that it was trained with, or, for the backbone in a file of a whole model, its prefix '
            "in init_cfg, as prefix='backbone'"
        )
    found = {key: weights[key] for key in own if key in weights}
    if not strict:
        found = {key: _on_grid(key, value, own[key]) for key, value in found.items()}
    reshaped = [key for key, value in found.items() if value.shape != own[key]]
    missing = [key for key in own if key not in found and not key.endswith(_COUNTERS)]
    left = [key for key in weights if key not in found and not key.endswith(_COUNTERS)]
    later, left = _parted(left, lambda key: _is_later(key, own))
    num_filled, num_weights = len(found) - len(reshaped), len(found) + len(missing)
    report = [f'{filename}: {num_filled} of {num_weights} weights of the model filled']
    fitting = OrderedDict((key, found[key]) for key in found if key not in reshaped)
    fitting._metadata = getattr(weights, '_metadata', OrderedDict())
    if not strict:
        new, missing = _parted(missing, _NEW.match)
        new_norms, missing = _parted(missing, _MAP_NORMS.match)
        new_heads, missing = _parted(missing, _HEADS.match)
        other_heads, reshaped = _parted(reshaped, _HEADS.match)
        starts = _unbuilt(model)
        unbuilt, later = _parted(later, lambda key: key.startswith(starts))
        takes_biases = any(key.endswith(_BIASES) for key in own)
        biases, left = _parted(left, lambda key: key.endswith(_BIASES) and not takes_biases)
        unused, left = _parted(left, _ENDS.match)
        new_heads += other_heads
        for keys, what in (
            (new, 'of the linear attention are new'),
            (new_norms, f'of norms of maps are new ({_listed(new_norms)})'),
            (new_heads, f'of heads are new ({_listed(new_heads)})'),
            (biases, 'logit biases of the file are not used'),
            (unbuilt, f'of blocks after the last that is built are not used ({_blocks(unbuilt)})'),
            (unused, f'others of the file are not used ({_listed(unused)})'),
        ):
            report += [f'{len(keys)} {what}'] if keys else []
        report += [
            f'{key} is resized from {_grid(weights[key])} to {_grid(value)}'
            for key, value in fitting.items()
            if value.shape != weights[key].shape
        ]
    shapes = dict.fromkeys(_other_shape(key, found[key].shape, own[key]) for key in reshaped)
    faults = [f'the model lacks {_named(left)}'] if left else []
    faults += [f'the model ends before {_blocks(later)} of the file'] if later else []
    faults += [f'the file lacks {_listed(missing)}'] if missing else []
    faults += list(shapes)[:4]
    if not faults:
        return fitting, '; '.join(report)
    if strict:
        remedy = (
            'give the config that it was trained with, its num_classes too; a training with other '
            'heads starts from it by load_from'
        )
    elif any(key.startswith('backbone.') for key in own):
        remedy = 'load_from takes other heads alone; a file of the backbone goes to its init_cfg'
    elif set(missing) <= _SWITCHES.keys() and not (left or later or reshaped):
        remedy = f'set {" and ".join(dict.fromkeys(_SWITCHES[key] for key in missing))}'
    else:
        remedy = 'take a file of this architecture, or its architecture (docs/weights.md)'
    raise InputError(
        f'{filename} does not fit {type(model).__name__}: {"; ".join(faults)}; {remedy}'
    )


def _bare(key: str) -> str:
    """A key without what DistributedDataParallel, averages and torch.compile put into it."""
    return key.replace('_orig_mod.', '').removeprefix('module.')


def _on_grid(key: str, value: Tensor, shape: torch.Size) -> Tensor:
    """Resized, if it is a weight on a grid and differs from the shape in its grid alone."""
    for end, how in _GRIDS.items():
        if key.endswith(end) and value.shape[:-2] == shape[:-2] and value.shape != shape:
            channels = value.float().reshape(1, -1, *value.shape[-2:])
            return F.interpolate(channels, shape[-2:], **how).reshape(shape)
    return value


def _grid(value: Tensor) -> str:
    return 'x'.join(map(str, value.shape[-2:]))


def _is_later(key: str, own: Iterable[str]) -> bool:
    """Whether a key of the file is of a block after the last that the model has."""
    block = _BLOCK.match(key)
    ours = (each for each in map(_BLOCK.match, own) if each and block)
    numbers = [int(each['number']) for each in ours if each['stack'] == block['stack']]
    return bool(numbers) and int(block['number']) > max(numbers)


def _unbuilt(model: nn.Module) -> tuple[str, ...]:
    """How the keys start of the blocks that the parts of a model leave out."""
    return tuple(
        _bare(f'{name}.{start}').removeprefix('.')
        for name, module in model.named_modules()
        for start in getattr(module, 'unbuilt', ())
    )


def _blocks(keys: Iterable[str]) -> str:
    return ', '.join(dict.fromkeys(_BLOCK.match(key)[0].rstrip('.') for key in keys))


def _parted(keys: Iterable[str], is_first: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    first = [key for key in keys if is_first(key)]
    return first, [key for key in keys if key not in first]


def _pattern(key: str) -> str:
    return '.'.join('*' if part.isdigit() else part for part in key.split('.'))


def _listed(keys: Iterable[str], most: int = 4) -> str:
    """The keys, those of different blocks as one, and weight and bias of a layer too."""
    patterns = dict.fromkeys(map(_pattern, keys))
    layers = {each.removesuffix('.bias') for each in patterns if each.endswith('.bias')}
    names = {}
    for each in patterns:
        layer = each.removesuffix('.weight').removesuffix('.bias')
        both = layer in layers and f'{layer}.weight' in patterns
        names[layer if both else each] = None
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(list(names)[:most]) + more


def _named(keys: Iterable[str]) -> str:
    """The keys with the words for the parts that they are of, as far as there are."""
    names, rest = [], list(keys)
    for words, pattern in _FOREIGN.items():
        found = [key for key in rest if re.search(pattern, key)]
        rest = [key for key in rest if key not in found]
        names += [f'{words} ({_listed(found)})'] if found else []
    return ', '.join([*names, _listed(rest)] if rest else names)


def _other_shape(key: str, theirs: torch.Size, ours: torch.Size) -> str:
    if key.endswith('embed.proj.weight') and theirs[2:] != ours[2:]:
        return f'the file has patch size {theirs[-1]}, and only {ours[-1]} is read'
    if key.endswith('embed.pos_embed') and len(theirs) == 3:
        return f'its positions, {theirs[-1]} without that of the class token, are no square grid'
    return f'{_pattern(key)} has {tuple(theirs)} where the model has {tuple(ours)}'
