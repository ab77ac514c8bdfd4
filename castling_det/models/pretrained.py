"""Key layouts of other libraries, and how ours is made of them: lists of renamed parts."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]
Renames = tuple[tuple[str, str], ...]  # old and new part of a key, one after the other

# Each list belongs to the layout that has its key.
_LEVIT_LAYOUTS: dict[str, Renames] = {
    # The authors'. Attention and MLP are residuals `m` in one line of blocks.
    'patch_embed.0.c.weight': (
        ('patch_embed.0.c.', 'stem.convs.0.conv.'),
        ('patch_embed.2.c.', 'stem.convs.1.conv.'),
        ('patch_embed.4.c.', 'stem.convs.2.conv.'),
        ('patch_embed.6.c.', 'stem.convs.3.conv.'),
        ('patch_embed.0.', 'stem.convs.0.'),
        ('patch_embed.2.', 'stem.convs.1.'),
        ('patch_embed.4.', 'stem.convs.2.'),
        ('patch_embed.6.', 'stem.convs.3.'),
        ('.m.0.', '.mlp.up.'),
        ('.m.2.', '.mlp.down.'),
        ('.m.', '.'),
        ('.qkv.', '.attn.qkv.'),
        ('.kv.', '.attn.kv.'),
        ('.q.1.', '.attn.q.'),
        ('.proj.1.', '.attn.proj.'),
        ('.attention_biases', '.attn.bias.table'),
        ('.c.', '.linear.'),
    ),
    # timm's; its stages and blocks are ours.
    'stem.conv1.linear.weight': (
        ('stem.conv1.linear.', 'stem.convs.0.conv.'),
        ('stem.conv2.linear.', 'stem.convs.1.conv.'),
        ('stem.conv3.linear.', 'stem.convs.2.conv.'),
        ('stem.conv4.linear.', 'stem.convs.3.conv.'),
        ('stem.conv1.', 'stem.convs.0.'),
        ('stem.conv2.', 'stem.convs.1.'),
        ('stem.conv3.', 'stem.convs.2.'),
        ('stem.conv4.', 'stem.convs.3.'),
        ('.attn_downsample.', '.attn.'),
        ('.q.ln.', '.q.'),
        ('.proj.ln.', '.proj.'),
        ('.mlp.ln1.', '.mlp.up.'),
        ('.mlp.ln2.', '.mlp.down.'),
        ('.attention_biases', '.bias.table'),
    ),
    # transformers'. A stage ends with the downsampling that begins our next one.
    'patch_embeddings.embedding_layer_1.convolution.weight': (
        ('patch_embeddings.embedding_layer_1.', 'stem.convs.0.'),
        ('patch_embeddings.embedding_layer_2.', 'stem.convs.1.'),
        ('patch_embeddings.embedding_layer_3.', 'stem.convs.2.'),
        ('patch_embeddings.embedding_layer_4.', 'stem.convs.3.'),
        ('.convolution.', '.conv.'),
        ('.batch_norm.', '.bn.'),
        ('.module.', '.'),
        ('.queries_keys_values.', '.attn.qkv.'),
        ('.keys_values.', '.attn.kv.'),
        ('.queries.', '.attn.q.'),
        ('.projection.', '.attn.proj.'),
        ('.linear_up.', '.mlp.up.'),
        ('.linear_down.', '.mlp.down.'),
        ('.attention_biases', '.attn.bias.table'),
    ),
}

_VIT_LAYOUTS: dict[str, Renames] = {
    # DeiT's, MAE's and timm's; `dconv` is of the published Castling-ViT.
    'patch_embed.proj.weight': (
        ('patch_embed.proj.', 'embed.proj.'),
        ('.attn.dconv.', '.attn.attn.conv.'),
        ('.mlp.fc1.', '.mlp.up.'),
        ('.mlp.fc2.', '.mlp.down.'),
    ),
    # mmpretrain's.
    'patch_embed.projection.weight': (
        ('patch_embed.projection.', 'embed.proj.'),
        ('.ffn.layers.0.0.', '.mlp.up.'),
        ('.ffn.layers.1.', '.mlp.down.'),
        ('layers.', 'blocks.'),
        ('.ln1.', '.norm1.'),
        ('.ln2.', '.norm2.'),
        ('ln1.', 'norm.'),
    ),
    # transformers', versions 4 and 5.
    'embeddings.patch_embeddings.projection.weight': (
        ('embeddings.patch_embeddings.projection.', 'embed.proj.'),
        ('embeddings.', ''),
        ('position_embeddings', 'pos_embed'),
        ('distillation_token', 'dist_token'),
        ('encoder.layer.', 'blocks.'),
        ('layers.', 'blocks.'),
        ('.layernorm_before.', '.norm1.'),
        ('.layernorm_after.', '.norm2.'),
        ('layernorm.', 'norm.'),
        ('.attention.output.dense.', '.attn.proj.'),
        ('.attention.o_proj.', '.attn.proj.'),
        ('.attention.attention.', '.attn.'),
        ('.attention.', '.attn.'),
        ('.query.', '.q.'),
        ('.key.', '.k.'),
        ('.value.', '.v.'),
        ('.q_proj.', '.q.'),
        ('.k_proj.', '.k.'),
        ('.v_proj.', '.v.'),
        ('.intermediate.dense.', '.mlp.up.'),
        ('.output.dense.', '.mlp.down.'),
        ('.mlp.fc1.', '.mlp.up.'),
        ('.mlp.fc2.', '.mlp.down.'),
    ),
    # JAX's (google-research/vision_transformer), after `_from_jax`.
    'embedding.kernel': (
        ('embedding.', 'embed.proj.'),
        ('Transformer.posembed_input.pos_embedding', 'pos_embed'),
        ('Transformer.encoder_norm.', 'norm.'),
        ('Transformer.encoderblock_', 'blocks.'),
        ('cls', 'cls_token'),
        ('.LayerNorm_0.', '.norm1.'),
        ('.LayerNorm_2.', '.norm2.'),
        ('.MultiHeadDotProductAttention_1.query.', '.attn.q.'),
        ('.MultiHeadDotProductAttention_1.key.', '.attn.k.'),
        ('.MultiHeadDotProductAttention_1.value.', '.attn.v.'),
        ('.MultiHeadDotProductAttention_1.out.', '.attn.proj.'),
        ('.MlpBlock_3.Dense_0.', '.mlp.up.'),
        ('.MlpBlock_3.Dense_1.', '.mlp.down.'),
        ('.kernel', '.weight'),
        ('.scale', '.weight'),
    ),
    # transformers' DINOv3, so that what it has beyond a ViT can be named.
    'embeddings.patch_embeddings.weight': (
        ('embeddings.patch_embeddings.', 'embed.proj.'),
        ('embeddings.', ''),
        ('layer.', 'blocks.'),
        ('.attention.o_proj.', '.attn.proj.'),
        ('.attention.q_proj.', '.attn.q.'),
        ('.attention.k_proj.', '.attn.k.'),
        ('.attention.v_proj.', '.attn.v.'),
        ('.mlp.up_proj.', '.mlp.up.'),
        ('.mlp.down_proj.', '.mlp.down.'),
    ),
}

_TIMM_LAYOUTS = _VIT_LAYOUTS | {
    # transformers' CLIP and SigLIP, the vision model.
    'embeddings.patch_embedding.weight': (
        ('embeddings.patch_embedding.', 'embed.proj.'),
        ('embeddings.class_embedding', 'cls_token'),
        ('embeddings.position_embedding.weight', 'pos_embed'),
        ('encoder.layers.', 'blocks.'),
        ('pre_layrnorm.', 'norm_pre.'),
        ('post_layernorm.', 'norm.'),
        ('.layer_norm1.', '.norm1.'),
        ('.layer_norm2.', '.norm2.'),
        ('.self_attn.out_proj.', '.attn.proj.'),
        ('.self_attn.q_proj.', '.attn.q.'),
        ('.self_attn.k_proj.', '.attn.k.'),
        ('.self_attn.v_proj.', '.attn.v.'),
    ),
}
# From `CastlingViT`'s names, and from those of parts that it has not, to timm's.
_TO_TIMM: Renames = (
    ('embed.proj.', 'patch_embed.proj.'),
    ('.mlp.up.', '.mlp.fc1.'),
    ('.mlp.down.', '.mlp.fc2.'),
    ('.mlp.gate_proj.', '.mlp.fc1_g.'),
    ('.mlp.weights_in.', '.mlp.fc1.'),
    ('.mlp.weights_out.', '.mlp.fc2.'),
    ('.mlp.w12.', '.mlp.fc1.'),
    ('.mlp.w3.', '.mlp.fc2.'),
    ('.layer_scale1.lambda1', '.ls1.gamma'),
    ('.layer_scale2.lambda1', '.ls2.gamma'),
    ('register_tokens', 'reg_token'),
)
# timm's families have two names for some parts: a model that lacks the first may have the other.
_TIMM_VARIANTS: Renames = (
    ('.ls1.gamma', '.gamma_1'),
    ('.ls2.gamma', '.gamma_2'),
    ('.gamma_1', '.ls1.gamma'),
    ('.gamma_2', '.ls2.gamma'),
    ('.mlp.fc1.', '.mlp.fc1_x.'),
    ('.attn.q.bias', '.attn.q_bias'),
    ('.attn.v.bias', '.attn.v_bias'),
    ('fc_norm.', 'norm.'),
)


def levit_state_dict(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a LeViT checkpoint of the authors, timm or transformers to ``CastlingLeViT``'s keys.

    Keys of our own layout pass as they are. Classifier heads, index buffers and what else has no
    counterpart keep a name that we do not have.

    Args:
        state_dict (StateDict): Of a LeViT at any size; a leading ``levit.`` is allowed.

    Returns:
        dict[str, Tensor]: Keys of ``CastlingLeViT``; logit biases as ``(H, grid, grid)`` tables.
    """
    renamed = _renamed(state_dict, _LEVIT_LAYOUTS, ('levit.',))
    places = _levit_places(renamed)
    placed = {}
    for key, value in renamed.items():
        unit = _unit(key)
        if unit in places:
            key = places[unit] + key.removeprefix(unit)
        if key.endswith('.bias.table') and value.ndim == 2:
            grid = math.isqrt(value.shape[1])
            value = value.unflatten(1, (grid, grid))
        placed[key] = value
    return placed


def _unit(key: str) -> str:
    """What stands before ``.attn.`` or ``.mlp.``, if they are there: a block, or a half of one."""
    return max(key.rpartition('.attn.')[0], key.rpartition('.mlp.')[0])


def _levit_places(state_dict: StateDict) -> dict[str, str]:
    """Our stage and block of each unit, where attentions and MLPs stand in one line."""
    parts = {}
    for key in state_dict:
        if (unit := _unit(key)).startswith(('blocks.', 'encoder.')):
            parts.setdefault(unit, set()).add(key.removeprefix(unit).split('.')[2])
    places, stage, block = {}, 0, -1
    for unit in sorted(parts, key=lambda unit: [int(n) for n in unit.split('.') if n.isdigit()]):
        if 'kv' in parts[unit]:
            stage, block = stage + 1, -1
        elif 'qkv' in parts[unit]:
            block += 1
        inside = 'downsample' if block < 0 else f'blocks.{block}'
        places[unit] = f'stages.{stage}.{inside}'
    return places


def vit_state_dict(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ViT checkpoint of DeiT, MAE, timm, mmpretrain, transformers or JAX to our
    own keys.

    What has no counterpart in ``CastlingViT`` (classifier heads, MAE's decoder and mask token, the
    token of a distilled DeiT, whose position is left out too, parts of other models) keeps a name
    that we do not have. Keys of our own layout pass as they are. Positions keep the grid that they
    were trained on.

    Args:
        state_dict (StateDict): A leading ``vit.`` or ``deit.`` is allowed, mmpretrain's
            ``backbone.`` is not: that is the ``prefix`` of an ``init_cfg``.

    Returns:
        dict[str, Tensor]: q, k and v joined, with a bias of zero where they have none; positions as
        a ``(1, C, grid, grid)`` map, or ``(1, C, N)`` if they are no square grid, without the class
        token's, which is added to the token.
    """
    if 'embedding/kernel' in state_dict:
        state_dict = _from_jax(state_dict)
    renamed = _renamed(state_dict, _VIT_LAYOUTS, ('vit.', 'deit.'))
    _join_qkv(renamed)
    for key in [key for key in renamed if key.endswith('.mlp.up.weight')]:
        down = renamed.get(key.replace('.up.', '.down.'))
        if down is not None and len(renamed[key]) == 2 * down.shape[1]:
            renamed[key.replace('.up.', '.gate_and_up.')] = renamed.pop(key)
    positions, cls_token = renamed.pop('pos_embed', None), renamed.pop('cls_token', None)
    if cls_token is not None:
        renamed['embed.cls_token'] = cls_token
    if positions is not None:
        num_extra_tokens = (cls_token is not None) + ('dist_token' in renamed)
        renamed['embed.pos_embed'] = _position_map(positions[:, num_extra_tokens:])
        if cls_token is not None:
            renamed['embed.cls_token'] = cls_token + positions[:, :1]
    return renamed


def mvit_state_dict(state_dict: StateDict, depths: tuple[int, ...]) -> dict[str, Tensor]:
    """Rename an MViTv2 checkpoint of the authors, timm or mmpretrain to our keys.

    Args:
        state_dict (StateDict): A leading ``backbone.`` is allowed. What has no counterpart
            (classifiers) keeps its name.
        depths (tuple[int, ...]): Blocks of each stage; the authors and mmpretrain count them all.

    Returns:
        dict[str, Tensor]: Ours.
    """
    prefixes = {
        'patch_embed.projection.': 'patch_embed.proj.',
        'norm.': f'norms.{len(depths) - 1}.',
    }
    prefixes |= {f'norm{stage}.': f'norms.{stage}.' for stage in range(len(depths))}
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    for number, (stage, block) in enumerate(places):
        place = f'stages.{stage}.blocks.{block}.'
        prefixes[f'blocks.{number}.proj.'] = f'{place}shortcut_proj_attn.'
        prefixes[f'blocks.{number}.'] = place
    renamed = {}
    for key, value in state_dict.items():
        key = key.removeprefix('backbone.')
        theirs = next((prefix for prefix in prefixes if key.startswith(prefix)), '')
        renamed[prefixes.get(theirs, '') + key.removeprefix(theirs)] = value
    return renamed


def timm_state_dict(
    state_dict: StateDict, own: StateDict, num_extra_positions: int
) -> dict[str, Tensor]:
    """Rename a ViT checkpoint of transformers, DINOv2, mmpretrain or JAX to a timm model's keys.

    timm's own pass as they are. What has no counterpart keeps a name that the model does not have;
    left out are biases of zero that it has no place for, and tables of rotary positions, which a
    model computes.

    Args:
        state_dict (StateDict): A leading ``backbone.``, ``vit.``, ``deit.``, ``dinov2.``,
            ``dinov2_with_registers.`` or ``vision_model.`` is allowed.
        own (StateDict): Of the timm model.
        num_extra_positions (int): How many of the model's positions lead the grid's. Positions of a
            class token that the file has beyond them are added to the token.

    Returns:
        dict[str, Tensor]: q, k and v joined; positions ``(1, N, C)`` on the file's grid.
    """
    if 'embedding/kernel' in state_dict:
        state_dict = _from_jax(state_dict)
    prefixes = ('backbone.', 'vit.', 'deit.', 'dinov2.', 'dinov2_with_registers.', 'vision_model.')
    renamed = _renamed(state_dict, _TIMM_LAYOUTS, prefixes)
    _join_qkv(renamed)
    renamed = _replaced(renamed, _TO_TIMM)
    placed = {}
    for key, value in renamed.items():
        if key not in own:
            others = (key.replace(old, new) for old, new in _TIMM_VARIANTS)
            key = next((each for each in others if each in own and each not in renamed), key)
        is_nothing = key.endswith('bias') and not value.any()
        is_table = 'rope' in key and key != 'rope.freqs'  # which is learnt
        if key in own or not (is_nothing or is_table):
            placed[key] = value
    if 'pos_embed' in placed:
        _place_positions(placed, own, num_extra_positions)
    return placed


def _place_positions(weights: dict[str, Tensor], own: StateDict, num_extra: int) -> None:
    """Make positions lead with as many as the model's do, if the others are a square grid."""
    channels = weights['pos_embed'].shape[-1]
    positions = weights['pos_embed'] = weights['pos_embed'].reshape(1, -1, channels)
    if 'cls_token' in weights:
        weights['cls_token'] = weights['cls_token'].reshape(1, 1, channels)
    if 'pos_embed' not in own or positions.shape == own['pos_embed'].shape:
        return
    likely = (n for n in (num_extra, 1, 0) if _is_square(positions.shape[1] - n))
    found = next(likely, num_extra)
    if found < num_extra:
        zeros = positions.new_zeros(1, num_extra - found, channels)
        weights['pos_embed'] = torch.cat((positions[:, :found], zeros, positions[:, found:]), 1)
    elif found == 1 and num_extra == 0 and 'cls_token' in weights:
        weights['cls_token'] = weights['cls_token'] + positions[:, :1]
        weights['pos_embed'] = positions[:, 1:]


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _from_jax(arrays: StateDict) -> dict[str, Tensor]:
    """Dots for slashes, and weights as torch has them: outputs first, heads not apart."""
    turned = {}
    for key, value in arrays.items():
        *_, layer, leaf = key.split('/') if '/' in key else ('', key)
        if layer in ('query', 'key', 'value'):
            value = value.flatten(-2)
        elif layer == 'out' and leaf == 'kernel':
            value = value.flatten(0, 1)
        if leaf == 'kernel':
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
        turned[key.replace('/', '.')] = value
    return turned


def _join_qkv(state_dict: dict[str, Tensor]) -> None:
    """Join q, k and v where they are apart, and give them a bias where they have none."""
    for key in [key for key in state_dict if '.attn.q.' in key]:
        apart = [key.replace('.attn.q.', f'.attn.{letter}.') for letter in 'qkv']
        if all(each in state_dict for each in apart):
            joined = torch.cat([state_dict.pop(each) for each in apart])
            state_dict[key.replace('.attn.q.', '.attn.qkv.')] = joined
    for key, weight in list(state_dict.items()):
        if key.startswith('blocks.') and key.endswith('.attn.qkv.weight'):
            state_dict.setdefault(key.replace('.weight', '.bias'), weight.new_zeros(len(weight)))


def _position_map(positions: Tensor) -> Tensor:
    """``(1, N, C)`` to ``(1, C, grid, grid)``, or without a square grid to ``(1, C, N)``."""
    grid = math.isqrt(positions.shape[1])
    positions = positions.transpose(1, 2)
    return positions.unflatten(2, (grid, grid)) if grid**2 == positions.shape[2] else positions


def _renamed(
    state_dict: StateDict, layouts: dict[str, Renames], prefixes: tuple[str, ...]
) -> dict[str, Tensor]:
    """The same weights by the list of the layout whose key they have, if any."""
    for prefix in prefixes:
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return _replaced(
        state_dict, next((pairs for key, pairs in layouts.items() if key in state_dict), ())
    )


def _replaced(state_dict: StateDict, renames: Renames) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state_dict.items():
        for old, new in renames:
            key = key.replace(old, new)
        renamed[key] = value
    return renamed
