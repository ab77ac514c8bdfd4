"""Softmax ViTs of timm, transformers, torchvision and mmpretrain made linear, in place.

A model stays what its library built. Each attention module keeps its class, its weights and its
call; projections, norms, LayerScale, registers, rotary positions and gates run as they did. Only
its call of ``F.scaled_dot_product_attention``, which mixes q, k and v, goes to the attention of our
seam; where it writes the softmax out instead, its ``forward`` is that of ``written_out.py``. The
attention of the seam is a child of the module, so the original keys of the ``state_dict`` stay, and
whatever walks over modules (``castle``, ``CastlingHook``) finds it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from castling_det.errors import InputError
from castling_det.models.attention import Grid
from castling_det.models.base import block_numbers
from castling_det.written_out import BIASES, FORWARDS

CHILD = 'castling'  # name of the seam in an attention module
# Modules that mix image tokens by one call of F.scaled_dot_product_attention.
KNOWN = {
    'timm.layers.attention.Attention',
    'timm.layers.attention.AttentionRope',
    'timm.models.eva.EvaAttention',
    'transformers.models.clip.modeling_clip.CLIPAttention',
    'transformers.models.deit.modeling_deit.DeiTSelfAttention',
    'transformers.models.dinov2.modeling_dinov2.Dinov2SelfAttention',
    'transformers.models.dinov2_with_registers.modeling_dinov2_with_registers'
    '.Dinov2WithRegistersSelfAttention',
    'transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTAttention',
    'transformers.models.siglip.modeling_siglip.SiglipAttention',
    'transformers.models.vit.modeling_vit.ViTSelfAttention',
    'mmpretrain.models.utils.attention.MultiheadAttention',
}
REFUSED = {  # what names of classes tell
    'Window': 'attends within windows',
    'Cross': 'attends to other tokens than its own',
    'AttentionPool': 'pools the tokens',
}
TEXT = 'text_model'  # whose attention is of the same class as the image's in CLIP and SigLIP
# torch's own class stands in decoders and poolings too: in this block it mixes the image's tokens.
TORCHVISION_BLOCK = 'torchvision.models.vision_transformer.EncoderBlock'


@dataclass(frozen=True)
class Report:
    """What :func:`castlify` did.

    Attributes:
        replaced (tuple[str, ...]): Names of the attention modules that mix by the seam now.
        left (dict[str, str]): Names of all others, and why they were left.
        dropped (tuple[str, ...]): Names of the logit biases that are not used any more.
    """

    replaced: tuple[str, ...]
    left: dict[str, str]
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f'replaced {len(self.replaced)}: {", ".join(self.replaced)}']
        lines += [f'left {name}: {reason}' for name, reason in self.left.items()]
        lines += [f'dropped {len(self.dropped)}: {", ".join(self.dropped)}'] if self.dropped else []
        return '\n'.join(lines)


def castlify(
    model: nn.Module,
    attn: dict = dict(type='FocalAttention'),
    blocks: Sequence[int] | None = None,
    drop_bias: bool = False,
) -> Report:
    """Turn a softmax ViT of another library into a linear one, in place, its weights kept.

    It computes nearly the same function then; :func:`distill` brings it nearer, without labels.

    Tokens that are not on the grid (class token, registers, distillation token) lead the others in
    all models that are known; their number is what the model has beyond its patches. The grid is
    that of each input, square or not.

    Args:
        model (nn.Module): Of timm, transformers, torchvision or mmpretrain, or with one in it.
        attn (dict): Attention of the seam. Defaults to :class:`FocalAttention`, made for trained
            models. With ``dict(type='CastlingAttention')`` it is the training form of the published
            one; with ``dict(type='SoftmaxAttention')`` the model computes what it did.
        blocks (Sequence[int], optional): Which attention modules, counted from the input; -1 is
            the last. Defaults to all.
        drop_bias (bool): Whether relative positions that are added to the logits (LeViT, MViTv2)
            are left out; their parameters stay, without a gradient. Defaults to False.

    Returns:
        Report: Names of what was replaced, and of what was left and why.

    Raises:
        InputError: If no attention module is known, or there is not one patch embedding, or if the
            model has been castlified before, or for ``blocks`` that it does not have, or for logit
            biases that the attention does not take and ``drop_bias`` does not leave out. Later,
            when the model runs: for a mask, dropout of attention probabilities, or dropped patches,
            which linear attention does not know, and in ``nn.DataParallel``.
    """
    known, left = _attention_modules(model)
    if not known:
        found = ', '.join(sorted(set(left.values()))) or 'no attention module'
        raise InputError(f'{type(model).__name__} cannot be castlified: {found}')
    if any(hasattr(module, CHILD) for module in known.values()):
        raise InputError(f'{type(model).__name__} has been castlified before')
    wanted = block_numbers('blocks', range(len(known)) if blocks is None else blocks, len(known))
    left |= {
        name: 'not among the blocks asked for'
        for index, name in enumerate(known)
        if index not in wanted
    }
    chosen = {name: module for name, module in known.items() if name not in left}
    grid = TokenGrid()
    seams = {
        name: Seam(name, module.forward, _build(attn, module), grid, drop_bias)
        for name, module in chosen.items()
    }
    biases = {
        f'{name}.{bias}': getattr(module, bias)
        for name, module in chosen.items()
        for bias in BIASES
        if hasattr(module, bias) and not seams[name].passes_bias
    }
    if biases and not drop_bias:
        raise InputError(
            f'{attn["type"]} takes no relative positions in the logits, but there is '
            f'{next(iter(biases))}: drop_bias=True leaves them out'
        )
    record_grid(grid, model, known.values())
    for bias in biases.values():
        bias.requires_grad_(False)
    for name, module in chosen.items():
        seam = seams[name]
        setattr(module, CHILD, seam)
        module.register_forward_pre_hook(_refuse_replica)
        if _qualified_name(module) in FORWARDS:
            module.forward = partial(FORWARDS[_qualified_name(module)], module)
            continue
        if hasattr(module, 'fused_attn'):  # timm's
            module.fused_attn = True
        if hasattr(module, 'config'):  # transformers', shared by the blocks
            module.config._attn_implementation = 'sdpa'
        module.forward = seam.run_module
    return Report(tuple(chosen), left, tuple(biases))


class TokenGrid:
    """Height and width in patches of what the model sees at present.

    Attributes:
        hw (tuple[int, int], optional): None before the first input.
        num_extra_tokens (int, optional): Tokens that are not on the grid, as many for each input;
            None before the first.
    """

    def __init__(self) -> None:
        self.hw: Grid | None = None
        self.num_extra_tokens: int | None = None

    def record(self, embedding: nn.Module, args: tuple, patches: Tensor) -> None:
        """Forward hook of the patch embedding, whose output is ``(B, C, h, w)``."""
        self.hw = tuple(patches.shape[-2:])


def record_grid(
    grid: TokenGrid, model: nn.Module, modules: Iterable[nn.Module]
) -> list[RemovableHandle]:
    """Hooks that tell the grid what a model sees; none if its attention modules are told it."""
    if all(_qualified_name(module) in FORWARDS for module in modules):
        return []
    return [_patch_embedding(model).register_forward_hook(grid.record)]


def castlified_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The attention modules that mix by the seam, by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, CHILD)}


class Seam(nn.Module):
    """What an attention module calls in place of ``F.scaled_dot_product_attention``.

    Args:
        name (str): Of the attention module, for messages.
        module_forward (Callable): Of the attention module, with softmax.
        attn (nn.Module): Attention behind the seam.
        grid (TokenGrid): Shared by all of a model.
        drop_bias (bool): Whether logit biases are left out.

    Attributes:
        passes_bias (bool): Whether the attention gets the logit biases of the module.
    """

    def __init__(
        self,
        name: str,
        module_forward: Callable,
        attn: nn.Module,
        grid: TokenGrid,
        drop_bias: bool,
    ) -> None:
        super().__init__()
        self.attn = attn
        self.passes_bias = attn.accepts_bias and not drop_bias
        self.name, self.module_forward, self.grid = name, module_forward, grid

    def run_module(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the attention module's ``forward``, whose call and output it keeps."""
        mode = _InPlaceOfSoftmax(self)
        with mode:  # not `with ... as mode`, whose attributes torch.compile does not find
            output = self.module_forward(*args, **kwargs)
        if mode.calls != 1:
            raise InputError(
                f'{self.name} did not call F.scaled_dot_product_attention once but {mode.calls} '
                'times: ask for no attention weights, and for the implementation "sdpa"'
            )
        return output

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Mix ``(B, H, N, D)``; arguments of ``F.scaled_dot_product_attention``."""
        if attn_mask is not None or is_causal:
            raise InputError(f'{self.name} is called with a mask, which linear attention lacks')
        if dropout_p > 0:
            raise InputError(f'{self.name} drops attention probabilities: build it without dropout')
        if scale is not None and abs(scale * q.shape[-1] ** 0.5 - 1) > 1e-6:
            raise InputError(f'{self.name} scales logits by {scale}, not by 1 / sqrt(head dim)')
        hw, num_tokens = self.grid.hw, q.shape[-2]
        if hw is None:
            raise InputError(f'{self.name} runs before the model has seen an image')
        num_extra_tokens = num_tokens - hw[0] * hw[1]
        if self.grid.num_extra_tokens is None and num_extra_tokens >= 0:
            self.grid.num_extra_tokens = int(num_extra_tokens)  # no formula of an exported size
        if num_extra_tokens != self.grid.num_extra_tokens:
            raise InputError(
                f'{self.name} sees {num_tokens} tokens of a grid of {hw[0]}x{hw[1]}: build the '
                'model without patch dropout, and with gradient checkpointing run backward before '
                'an image of another size'
            )
        return self.attn(q, k, v, hw, hw, num_extra_tokens=num_extra_tokens)


class _InPlaceOfSoftmax(TorchFunctionMode):
    """Sends the calls of ``F.scaled_dot_product_attention`` of a module to its seam."""

    def __init__(self, seam: Seam) -> None:
        super().__init__()
        self.seam, self.calls = seam, 0

    def __torch_function__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:  # a mode does not see what this one calls
            self.calls += 1
            return self._self_attention(args, kwargs)
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            func = self.seam
        return func(*args, **kwargs)

    def _self_attention(self, args: tuple, options: dict) -> tuple[Tensor, None]:
        """What ``nn.MultiheadAttention`` computes of ``(N, B, C)``, by the seam."""
        x, key, value, _, num_heads, in_weight, in_bias, *_, dropout, out_weight, out_bias = args
        masks = [options.get(name) for name in ('attn_mask', 'key_padding_mask')]
        if key is not x or value is not x or options.get('need_weights'):
            raise InputError(f'{self.seam.name} attends to others than x, or gives its weights')
        qkv = F.linear(x, in_weight, in_bias)
        q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 1, 3, 0, 4)
        mask = next((mask for mask in masks if mask is not None), None)
        out = self.seam(q, k, v, mask, dropout if options['training'] else 0.0)
        return F.linear(out.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias), None


def _refuse_replica(module: nn.Module, args: tuple) -> None:
    """Forward pre-hook of the attention module: a copy has the ``forward`` of its original."""
    if getattr(module, '_is_replica', False):
        raise InputError(
            'a castlified model does not run in nn.DataParallel: start a process for each GPU by '
            'torchrun'
        )


def _attention_modules(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Those that are known, by name, and a reason for each other that is called so."""
    in_torchvision = {
        module.self_attention
        for module in model.modules()
        if _qualified_name(module) == TORCHVISION_BLOCK
    }
    known, left = {}, {}
    for name, module in model.named_modules():
        inner = any('Attention' in type(child).__name__ for child in module.children())
        kind = _qualified_name(module)
        reads_text = TEXT in name.split('.')
        if not reads_text and (kind in KNOWN or kind in FORWARDS or module in in_torchvision):
            known[name] = module
        elif 'Attention' in type(module).__name__ and not inner:
            reason = next((why for word, why in REFUSED.items() if word in kind), 'is not known')
            left[name] = f'{kind} {"reads text" if reads_text else reason}'
    return known, left


def _patch_embedding(model: nn.Module) -> nn.Conv2d:
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride != (1, 1)
    ]
    if len(found) != 1:
        raise InputError(
            f'{type(model).__name__} has {len(found)} patch embeddings, convolutions with a stride '
            f'as long as their kernel ({", ".join(found) or "none"}), where one tells the grid'
        )
    return model.get_submodule(found[0])


def _build(attn: dict, module: nn.Module) -> nn.Module:
    num_heads = _first(module, 'num_heads', 'num_attention_heads')
    dims = _first(module, 'head_dim', 'attention_head_size', 'head_dims', 'key_dim')
    if dims is None:
        dims = module.embed_dim // num_heads
    value_dims = getattr(module, 'val_dim', dims)
    built = MODELS.build(dict(attn, num_heads=num_heads, key_dims=dims, value_dims=value_dims))
    like = next(p for p in module.parameters() if p.is_floating_point())
    return built.to(like.device, like.dtype).train(module.training)


def _first(module: nn.Module, *names: str) -> int | None:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


def _qualified_name(module: nn.Module) -> str:
    return f'{type(module).__module__}.{type(module).__qualname__}'
