"""What our backbones have in common: weights from a file, and parts that stay as they are."""

from collections.abc import Iterable
from typing import Self

from mmengine.model import BaseModule, PretrainedInit, initialize
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from castling_det.checkpoint import load_weights
from castling_det.errors import InputError


class FileBackbone(BaseModule):
    """A backbone that is filled from a file wholly, or not at all with an error.

    Args:
        init_cfg (dict | list[dict], optional): ``dict(type='Pretrained', checkpoint=FILE,
            prefix=...)``; others are mmengine's.
    """

    @staticmethod
    def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the key layouts of other libraries to our own. Defaults to ours alone."""
        return state_dict

    def init_weights(self) -> None:
        """Load ``init_cfg``'s file, in any layout that is known, and log what was new or left.

        Raises:
            InputError: If the file is not read or does not fit, or if there are several.
        """
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or {}]
        files = [cfg for cfg in cfgs if cfg.get('type') in ('Pretrained', PretrainedInit)]
        if not files:
            super().init_weights()
            return
        if len(files) > 1:
            raise InputError(f'init_cfg has {len(files)} of type Pretrained, which exclude another')
        initialize(self, [cfg for cfg in cfgs if cfg not in files])
        file = WEIGHT_INITIALIZERS.build(files[0])
        load_weights(self, file.checkpoint, self.convert, strict=False, prefix=file.prefix or '')


class CastlingBackbone(FileBackbone):
    """A backbone that can freeze its first parts.

    A subclass calls :meth:`freeze` at the end of its ``__init__``.

    Args:
        frozen_stages (int): How many of :meth:`parts` are frozen, less one: -1 trains all.
        init_cfg (dict | list[dict], optional): As for :class:`FileBackbone`.
    """

    def __init__(self, frozen_stages: int, init_cfg: dict | list[dict] | None) -> None:
        super().__init__(init_cfg)
        self.frozen_stages = frozen_stages

    def parts(self) -> Iterable[nn.Module]:
        """What ``frozen_stages`` counts, from the input on."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """As any module's, but frozen parts stay in eval mode; returns the backbone."""
        super().train(mode)
        self.freeze()
        return self

    def freeze(self) -> None:
        """Give the frozen parts no gradients, and put them into eval mode."""
        for module in list(self.parts())[: self.frozen_stages + 1]:
            module.requires_grad_(False).eval()


def chosen_arch(backbone: str, arch_zoo: dict[str, dict], arch: str | dict) -> dict:
    """What the ``arch`` of a backbone stands for.

    Raises:
        InputError: For a name that is not in ``arch_zoo``.
    """
    if isinstance(arch, dict):
        return arch
    arch = str(arch)  # `--cfg-options` reads 256 as a number
    if arch not in arch_zoo:
        raise InputError(f'{backbone} has no arch {arch!r}, only {list(arch_zoo)}')
    return arch_zoo[arch]


def chosen_blocks(
    out_indices: tuple[int, ...],
    softmax_blocks: tuple[int, ...],
    frozen_stages: int,
    depths: int,
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """What the arguments of a plain ViT say of its blocks.

    Returns:
        tuple: ``out_indices`` and ``softmax_blocks`` counted from 0, and the number of blocks that
        are built, up to the last of ``out_indices``.

    Raises:
        InputError: For blocks that do not exist or are not built, and for no maps.
    """
    softmax_blocks = block_numbers('softmax_blocks', softmax_blocks, depths)
    out_indices = block_numbers('out_indices', out_indices, depths)
    if not out_indices:
        raise InputError('out_indices is empty, but a backbone returns at least one map')
    num_blocks = 1 + max(out_indices)
    if unused := [index for index in softmax_blocks if index >= num_blocks]:
        raise InputError(
            f'softmax_blocks has {unused}, but after block {num_blocks - 1}, the last of '
            'out_indices, there are none'
        )
    if frozen_stages not in range(-1, num_blocks + 1):
        raise InputError(f'frozen_stages is from -1 to {num_blocks}, not {frozen_stages}')
    return out_indices, softmax_blocks, num_blocks


def block_numbers(name: str, indices: tuple[int, ...], depths: int) -> tuple[int, ...]:
    """Numbers of blocks, counted from 0.

    Args:
        name (str): Of the argument, for the message.
        indices (tuple[int, ...]): -1 is the last block.
        depths (int): How many blocks there are.

    Raises:
        InputError: For blocks that do not exist.
    """
    if any(index not in range(-depths, depths) for index in indices):
        raise InputError(f'{name} are among the {depths} blocks, -1 the last, but got {indices}')
    return tuple(index % depths for index in indices)
