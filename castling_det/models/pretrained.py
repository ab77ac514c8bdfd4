"""Checkpoint layouts of other libraries, and the loading of a local file into a backbone."""

import math
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from castling_det.checkpoint import read_checkpoint, weights_of
from castling_det.errors import InputError

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
    counterpart keep their names.

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
        else:
            renamed[key] = value
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


# Parts of a ViT block: DeiT's, MAE's and timm's names, mmpretrain's, transformers' (4, 5) for ours.
_VIT_PARTS = {
    'norm1': 'norm1',
    'ln1': 'norm1',
    'layernorm_before': 'norm1',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'attention.output.dense': 'attn.proj',
    'attention.o_proj': 'attn.proj',
    'norm2': 'norm2',
    'ln2': 'norm2',
    'layernorm_after': 'norm2',
    'mlp.fc1': 'mlp.up',
    'ffn.layers.0.0': 'mlp.up',
    'intermediate.dense': 'mlp.up',
    'mlp.fc2': 'mlp.down',
    'ffn.layers.1': 'mlp.down',
    'output.dense': 'mlp.down',
}
_VIT_PART = '|'.join(re.escape(part) for part in _VIT_PARTS)
_VIT_BLOCK = re.compile(
    r'(?:blocks|layers|encoder\.layer)\.(?P<block>\d+)\.(?:'
    r'attention\.(?:(?:attention\.)?(?P<one>query|key|value)|(?P<letter>[qkv])_proj)'
    rf'|(?P<part>{_VIT_PART}))\.(?P<leaf>weight|bias)$'
)
_VIT_ENDS = re.compile(
    r'(?:(?P<patches>patch_embed\.proj(?:ection)?|embeddings\.patch_embeddings\.projection)'
    r'|norm|ln1|layernorm)\.(?P<leaf>weight|bias)$'
)
_VIT_TOKENS = re.compile(r'(?:embeddings\.)?(?:(?P<cls>cls_token)|pos_embed|position_embeddings)$')
_PATCHES = 'embed.proj.weight'


def vit_state_dict(state_dict: StateDict) -> StateDict:
    """Rename a ViT checkpoint of DeiT, MAE, timm, mmpretrain or transformers to our own keys.

    What has no counterpart in ``CastlingViT`` (classifier heads, MAE's decoder and mask token, the
    token of a distilled DeiT, whose position is left out too) keeps its name. Keys of our own
    layout pass as they are. Positions keep the grid that they were trained on.

    Args:
        state_dict (dict[str, Tensor]): A leading ``vit.`` or ``deit.`` is allowed, mmpretrain's
            ``backbone.`` is not: see ``prefix`` of :func:`load_pretrained`.

    Returns:
        dict[str, Tensor]: q, k and v joined; positions as a ``(1, C, grid, grid)`` map, without the
        class token's, which is added to the token.

    Raises:
        InputError: If the positions are not those of a square grid.
    """
    if _PATCHES in state_dict:
        return state_dict
    state_dict = {re.sub(r'^(vit|deit)\.', '', key): value for key, value in state_dict.items()}
    renamed, apart, tokens = {}, defaultdict(dict), {}
    for key, value in state_dict.items():
        if token := _VIT_TOKENS.match(key):
            tokens['cls' if token['cls'] else 'pos'] = value
        elif end := _VIT_ENDS.match(key):
            renamed[f'{"embed.proj" if end["patches"] else "norm"}.{end["leaf"]}'] = value
        elif not (unit := _VIT_BLOCK.match(key)):
            renamed[key] = value
        elif unit['part']:
            part = _VIT_PARTS[unit['part']]
            renamed[f'blocks.{unit["block"]}.{part}.{unit["leaf"]}'] = value
        else:
            letter = unit['letter'] or unit['one'][0]
            apart[f'blocks.{unit["block"]}.attn.qkv.{unit["leaf"]}'][letter] = value
    for key, parts in apart.items():
        renamed[key] = torch.cat([parts[letter] for letter in 'qkv' if letter in parts])
    if 'pos' in tokens:
        distilled = any(key.endswith(('dist_token', 'distillation_token')) for key in state_dict)
        num_extra_tokens = ('cls' in tokens) + distilled
        renamed['embed.pos_embed'] = _position_map(tokens['pos'][:, num_extra_tokens:])
        if 'cls' in tokens:
            renamed['embed.cls_token'] = tokens['cls'] + tokens['pos'][:, :1]
    return renamed


def _position_map(positions: Tensor) -> Tensor:
    """``(1, N, C)`` to ``(1, C, grid, grid)``."""
    number = positions.shape[1]
    grid = math.isqrt(number)
    if grid**2 != number:
        raise InputError(f'its {number} positions of patches are no square grid')
    return positions.transpose(1, 2).unflatten(2, (grid, grid))


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
        convert (Callable): From the file's key layout to the module's; a key without a counterpart
            keeps its name.

    Raises:
        InputError: If the file does not exist.
        InputError: If no key matches, or a key that matches has another shape.
    """
    state_dict = weights_of(read_checkpoint(filename))
    if prefix:
        stem = prefix.rstrip('.') + '.'
        state_dict = {k.removeprefix(stem): v for k, v in state_dict.items() if k.startswith(stem)}
    try:
        converted = convert(state_dict)
    except InputError as error:
        raise InputError(f'{filename}: {error}') from error
    own = module.state_dict()
    matched = {key: value for key, value in converted.items() if key in own}
    if not matched:
        raise InputError(
            f'{filename}: none of its {len(state_dict)} keys fits {type(module).__name__}; '
            f'is it a checkpoint of another model, or does it need a prefix?'
        )
    wrong = [key for key, value in matched.items() if value.shape != own[key].shape]
    if wrong:
        key = _PATCHES if _PATCHES in wrong else wrong[0]
        raise InputError(f'{filename}: {_other_shape(key, matched[key].shape, own[key].shape)}')
    module.load_state_dict(matched, strict=False)
    biases = sum(key.endswith('.bias.table') for key in converted.keys() - matched.keys())
    MMLogger.get_current_instance().info(
        f'{filename}: {len(matched)} keys matched, {len(own) - len(matched)} of the model missing, '
        f'{len(converted) - len(matched)} of the file not used (logit biases: {biases})'
    )


def _other_shape(key: str, theirs: torch.Size, ours: torch.Size) -> str:
    shapes = f'{key} has shape {tuple(theirs)}, but the model needs {tuple(ours)}'
    if key == _PATCHES and theirs[2:] != ours[2:]:
        return f'{shapes}; the file has patch size {theirs[-1]}, and only {ours[-1]} is read'
    remedy = 'bias_grid' if key.endswith('.bias.table') else 'arch'
    if key == 'embed.pos_embed':
        remedy = f'pos_grid={tuple(theirs[2:])}'
    return f'{shapes}; choose the {remedy} that the file was made with'
