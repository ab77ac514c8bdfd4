"""What models in files have in common: RGB pixels in, a network that ships."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

# How far files go, by task; the first is what one gets without asking.
DECODES = dict(
    detection=('boxes', 'nms', 'raw'),
    segmentation=('labels', 'raw'),
    classification=('scores', 'raw'),
)
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
    """

    task: ClassVar[str]
    outputs: dict[str, tuple[str, ...]]

    def __init__(
        self, model: nn.Module, decodes: bool, pad_size_divisor: int, pad_value: float
    ) -> None:
        super().__init__()
        self.model, self.decodes = model, decodes
        self.pad_size_divisor, self.pad_value = pad_size_divisor, pad_value
        self.takes_rgb, mean, std = normalisation(model.data_preprocessor)
        self.register_buffer('mean', torch.tensor(mean)[:, None, None])
        self.register_buffer('std', torch.tensor(std)[:, None, None])

    def undecided(self, image: Tensor) -> tuple[Tensor, ...]:
        """What ``forward`` returns, or what it would decide by."""
        return self(image)

    def prepare(self, image: Tensor) -> Tensor:
        """Normalise pixels, and pad them at the right and bottom, as ``data_preprocessor`` does.

        Args:
            image (Tensor): ``(B, 3, H, W)``, float32, RGB, 0 to 255.

        Returns:
            Tensor: ``(B, 3, h, w)`` in the dtype of the network.
        """
        height, width = image.shape[-2:]
        x = image if self.takes_rgb else image.flip(1)
        x = (x - self.mean) / self.std
        right, bottom = (
            _up_to_multiple(side, self.pad_size_divisor) - side for side in (width, height)
        )
        x = F.pad(x, (0, right, 0, bottom), value=self.pad_value)
        return x.to(next(self.model.parameters()).dtype)


def _up_to_multiple(side: int, divisor: int) -> int:
    """The next multiple, in a form that torch.export sees to be one where the side is open."""
    return (side + divisor - 1) // divisor * divisor


def normalisation(preprocessor: nn.Module) -> tuple[bool, list[float], list[float]]:
    """Whether a network takes RGB (else BGR), and mean and standard deviation of its channels."""
    of_mmpretrain = hasattr(preprocessor, 'to_rgb')
    takes_rgb = preprocessor.to_rgb if of_mmpretrain else preprocessor._channel_conversion
    if not preprocessor._enable_normalize:
        return takes_rgb, [0.0] * 3, [1.0] * 3
    mean, std = (
        value.float().flatten().expand(3).tolist()
        for value in (preprocessor.mean, preprocessor.std)
    )
    return takes_rgb, mean, std


def trace(model: nn.Module, *inputs: tuple[Tensor, tuple[int, ...]]) -> ExportedProgram:
    """Record a model with open sizes; it fails where one of them is fixed.

    Args:
        model (nn.Module): In eval mode.
        inputs (tuple[Tensor, tuple[int, ...]]): What it is called with, and its open dimensions.
    """
    tensors, dimensions = zip(*inputs, strict=True)
    opened = tuple(dict.fromkeys(each, Dim.DYNAMIC) for each in dimensions)
    return torch.export.export(model, tensors, dynamic_shapes=opened, strict=False)
