"""What models in files have in common: RGB pixels in, a network that ships."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from castling_det.errors import InputError

EXAMPLE_SHAPE = (2, 3, 135, 203)  # nothing divides evenly: sizes that do can look like fixed ones
OPEN = (0, 2, 3)  # dimensions of an image


class Graph(nn.Module):
    """A model between RGB pixels and its outputs, all in float32 but for the network itself.

    A subclass has a ``task``, as :func:`castling_det.configs.task_of` names it, and ``outputs``,
    the names of what ``forward`` returns, each with the names of its dimensions; an empty one is
    fixed.

    Args:
        model (nn.Module): In eval mode; it is not copied.
        decodes (bool): Whether outputs are decoded, or as the head gives them.
        pad_size_divisor (int): Of the size, in px, that images are padded to.
        pad_value (float): Of normalised pixels.

    Raises:
        InputError: If images are not normalised as RGB.
    """

    task: ClassVar[str]
    outputs: dict[str, tuple[str, ...]]

    def __init__(
        self, model: nn.Module, decodes: bool, pad_size_divisor: int, pad_value: float
    ) -> None:
        super().__init__()
        preprocessor = model.data_preprocessor
        of_mmpretrain = hasattr(preprocessor, 'to_rgb')
        is_rgb = preprocessor.to_rgb if of_mmpretrain else preprocessor._channel_conversion
        if not (is_rgb and preprocessor._enable_normalize):
            raise InputError(
                'files take RGB pixels: model.data_preprocessor needs mean, std and '
                f'{"to_rgb" if of_mmpretrain else "bgr_to_rgb"}=True'
            )
        self.model, self.decodes = model, decodes
        self.pad_size_divisor, self.pad_value = pad_size_divisor, pad_value
        self.register_buffer('mean', preprocessor.mean.float())
        self.register_buffer('std', preprocessor.std.float())

    def prepare(self, image: Tensor) -> Tensor:
        """Normalise pixels, and pad them at the right and bottom, as ``data_preprocessor`` does.

        Args:
            image (Tensor): ``(B, 3, H, W)``, float32, RGB, 0 to 255.

        Returns:
            Tensor: ``(B, 3, h, w)`` in the dtype of the network.
        """
        height, width = image.shape[-2:]
        x = (image - self.mean) / self.std
        right, bottom = -width % self.pad_size_divisor, -height % self.pad_size_divisor
        x = F.pad(x, (0, right, 0, bottom), value=self.pad_value)
        return x.to(next(self.model.parameters()).dtype)


def trace(model: nn.Module, *inputs: tuple[Tensor, tuple[int, ...]]) -> ExportedProgram:
    """Record a model with open sizes; it fails where one of them is fixed.

    Args:
        model (nn.Module): In eval mode.
        inputs (tuple[Tensor, tuple[int, ...]]): What it is called with, and its open dimensions.
    """
    tensors, dimensions = zip(*inputs, strict=True)
    opened = tuple(dict.fromkeys(each, Dim.DYNAMIC) for each in dimensions)
    return torch.export.export(model, tensors, dynamic_shapes=opened, strict=False)
