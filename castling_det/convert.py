"""Checkpoint layouts of other libraries, and the loading of a local file into a backbone."""

import math
import re
from collections.abc import Callable
from pathlib import Path

from mmengine.logging import MMLogger
from torch import Tensor, nn

from castling_det.checkpoint import read_checkpoint

StateDict = dict[str, Tensor]

# Parts of a LeViT block: the authors', timm's and transformers' names for ours.
_LEVIT_PARTS = {
    'qkv': 'attn.qkv',
    'queries_keys_values': 'attn.qkv',
    'kv': 'attn.kv',
    'keys_values': 'attn.kv',
    'q.1': 'attn.q',
    'q.ln': 'attn.q',
    'queries': 'attn.q',
    'proj.1': 'attn.proj',
    'proj.ln': 'attn.proj',
    'projection': 'attn.proj',
    '0': 'mlp.up',
    'ln1': 'mlp.up',
    'linear_up': 'mlp.up',
    '2': 'mlp.down',
    'ln2': 'mlp.down',
    'linear_down': 'mlp.down',
}
_LAYER = r'(?P<layer>c|linear|convolution|bn|batch_norm)\.(?P<leaf>\w+)$'
_PART = '|'.join(re.escape(part) for part in _LEVIT_PARTS)
_STEM = re.compile(
    rf'(?P<library>patch_embed\.|stem\.conv|patch_embeddings\.embedding_layer_)(?P<number>\d)\.{_LAYER}'
)
_UNIT = re.compile(
    r'(?P<unit>blocks\.\d+|encoder\.stages\.\d+\.layers\.\d+'
    r'|stages\.\d+\.(?:blocks\.\d+|downsample)(?=\.))\.(?:(?:m|module|attn|attn_downsample|mlp)\.)?'
    rf'(?:(?P<bias>attention_biases)$|(?P<part>{_PART})\.{_LAYER})'
)


def levit_state_dict(state_dict: StateDict) -> StateDict:
    """Rename a LeViT checkpoint of the authors, timm or transformers to ``CastlingLeViT``'s keys.

    Keys of our own layout pass as they are. Classifier heads, index buffers and what else has no
    counterpart are left out.

    Args:
        state_dict (dict[str, Tensor]): Of a LeViT at any size; a leading ``levit.`` is allowed.

    Returns:
        dict[str, Tensor]: Keys of ``CastlingLeViT``; logit biases as ``(H, grid, grid)`` tables.
    """
    state_dict = {key.removeprefix('levit.'): value for key, value in state_dict.items()}
    if any(key.startswith('stem.convs.') for key in state_dict):
        return state_dict
    places = _levit_places(state_dict)
    renamed = {}
    for key, value in state_dict.items():
        if stem := _STEM.match(key):
            number = int(stem['number'])
            index = number // 2 if stem['library'] == 'patch_embed.' else number - 1
            layer = 'bn' if stem['layer'] in ('bn', 'batch_norm') else 'conv'
            renamed[f'stem.convs.{index}.{layer}.{stem["leaf"]}'] = value
        elif (unit := _UNIT.match(key)) and unit['bias']:
            grid = math.isqrt(value.shape[1])
            renamed[f'{places[unit["unit"]]}.attn.bias.table'] = value.unflatten(1, (grid, grid))
        elif unit:
            layer = 'bn' if unit['layer'] in ('bn', 'batch_norm') else 'linear'
            part = f'{_LEVIT_PARTS[unit["part"]]}.{layer}.{unit["leaf"]}'
            renamed[f'{places[unit["unit"]]}.{part}'] = value
    return renamed


def _levit_places(state_dict: StateDict) -> dict[str, str]:
    """Our stage and block for each unit; the authors and transformers number units in one line."""
    parts = {}
    for key in state_dict:
        if unit := _UNIT.match(key):
            parts.setdefault(unit['unit'], set()).add(_LEVIT_PARTS.get(unit['part']))
    places, stage, block = {}, 0, -1
    for unit in sorted(parts, key=lambda unit: [int(n) for n in re.findall(r'\d+', unit)]):
        if unit.startswith('stages.'):
            places[unit] = unit
            continue
        if 'attn.kv' in parts[unit]:
            stage, block = stage + 1, -1
        elif 'attn.qkv' in parts[unit]:
            block += 1
        inner = 'downsample' if block < 0 else f'blocks.{block}'
        places[unit] = f'stages.{stage}.{inner}'
    return places


def load_pretrained(
    module: nn.Module,
    filename: str | Path,
    prefix: str = '',
    convert: Callable[[StateDict], StateDict] = dict,
) -> None:
    """Load the weights that fit from a local checkpoint, and log how many did.

    Args:
        module (nn.Module): Receives the weights.
        filename (str | Path): Local checkpoint: a state dict, or a dict that holds one under
            'state_dict' or 'model'.
        prefix (str): Only keys below it are used, without it ('backbone' for a detector's file).
        convert (Callable): From the file's key layout to the module's.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If no key matches, or a key that matches has another shape.
    """
    checkpoint = read_checkpoint(filename)
    state_dict = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    if prefix:
        stem = prefix.rstrip('.') + '.'
        state_dict = {k.removeprefix(stem): v for k, v in state_dict.items() if k.startswith(stem)}
    converted, own = convert(state_dict), module.state_dict()
    matched = {key: value for key, value in converted.items() if key in own}
    if not matched:
        raise ValueError(
            f'{filename}: none of its {len(state_dict)} keys fits {type(module).__name__}; '
            f'is it a checkpoint of another model, or does it need a prefix?'
        )
    for key, value in matched.items():
        if value.shape != own[key].shape:
            remedy = 'bias_grid' if key.endswith('.bias.table') else 'arch'
            raise ValueError(
                f'{filename}: {key} has shape {tuple(value.shape)}, but the model needs '
                f'{tuple(own[key].shape)}; choose the {remedy} that the file was made with'
            )
    module.load_state_dict(matched, strict=False)
    biases = sum(key.endswith('.bias.table') for key in converted.keys() - matched.keys())
    MMLogger.get_current_instance().info(
        f'{filename}: {len(matched)} keys matched, {len(own) - len(matched)} of the model missing, '
        f'{len(state_dict) - len(matched)} of the file not used (logit biases: {biases})'
    )
