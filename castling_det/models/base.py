"""What Castling backbones have in common: weights from a file, and parts that stay as they are."""

from collections.abc import Iterable
from typing import Self

from mmengine.model import BaseModule
from torch import Tensor, nn

from castling_det.models.pretrained import load_pretrained


class CastlingBackbone(BaseModule):
    """A backbone that reads the key layouts of its family, and freezes its first parts.

    A subclass calls :meth:`freeze` at the end of its ``__init__``.

    Args:
        frozen_stages (int): How many of :meth:`parts` are frozen, less one: -1 trains all.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=FILE, prefix=...)``.
    """

    def __init__(self, frozen_stages: int, init_cfg: dict | None) -> None:
        super().__init__(init_cfg)
        self.frozen_stages = frozen_stages

    def parts(self) -> Iterable[nn.Module]:
        """What ``frozen_stages`` counts, from the input on."""
        raise NotImplementedError

    @staticmethod
    def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the key layouts of other libraries to our own."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Load ``init_cfg``'s file, in any layout that is known, and log how many keys matched."""
        if self.init_cfg is None or self.init_cfg['type'] != 'Pretrained':
            super().init_weights()
            return
        load_pretrained(
            self, self.init_cfg['checkpoint'], self.init_cfg.get('prefix', ''), self.convert
        )

    def train(self, mode: bool = True) -> Self:
        """As any module's, but frozen parts stay in eval mode; returns the backbone."""
        super().train(mode)
        self.freeze()
        return self

    def freeze(self) -> None:
        """Give the frozen parts no gradients, and put them into eval mode."""
        for module in list(self.parts())[: self.frozen_stages + 1]:
            module.requires_grad_(False).eval()
