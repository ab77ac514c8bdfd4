"""Parts of models as ONNX operators, at other sizes than the recorded one, against torch."""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip('onnx', reason="the extra 'export' is not installed")

from castling_det.export.onnx_model import session  # noqa: E402
from castling_det.export.recording import FocalFunction, record  # noqa: E402
from castling_det.models import FocalAttention  # noqa: E402
from castling_det.written_out import _at_distances  # noqa: E402

SIZES = [(1, 40, 88), (3, 8, 12), (2, 100, 60)]


class TwoBlocks(nn.Module):
    """The second has its queries on every other row and column."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, stride=4)
        self.first, self.second = (FocalAttention(2, 6, 6, cells=4) for _ in range(2))

    def forward(self, image: Tensor) -> Tensor:
        maps = self.embed(image)
        hw = tuple(maps.shape[-2:])
        tokens = maps.flatten(2).unflatten(1, (2, 6)).mT
        tokens = self.first(tokens, tokens, tokens, hw, hw)
        coarse = tokens.unflatten(2, hw)[:, :, ::2, ::2]
        q_hw = tuple(coarse.shape[2:4])
        return self.second(coarse.flatten(2, 3), tokens, tokens, q_hw, hw)


class Table(nn.Module):
    """A table of relative positions along a side, for queries and keys of the image's two sides."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, 4))

    def forward(self, image: Tensor) -> Tensor:
        return _at_distances(self.table, *image.shape[2:]).expand(image.shape[0], -1, -1, -1)


def assert_same(model: nn.Module, recorded_size: tuple[int, int, int]) -> None:
    batch, height, width = recorded_size
    with torch.no_grad():
        sizes = [torch.randn(b, 3, h, w) for b, h, w in SIZES]
        expected = [model(image) for image in sizes]
        opened = session(record(model.eval(), torch.rand(batch, 3, height, width), ['y']))
    for image, tensor in zip(sizes, expected, strict=True):
        (got,) = opened.run(None, {'image': image.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), tensor, rtol=1e-4, atol=1e-5)


def test_blocks_of_one_shape_share_a_function(monkeypatch):
    recorded, record_function = [], FocalFunction.record

    def counted(function):
        recorded.append(function.name)
        return record_function(function)

    monkeypatch.setattr(FocalFunction, 'record', counted)
    torch.manual_seed(0)
    assert_same(TwoBlocks(), (2, 135, 203))
    assert len(recorded) == 1


def test_relative_positions_recorded_at_the_size_of_their_table():
    """Nothing is fixed where no table is resized."""
    torch.manual_seed(0)
    assert_same(Table(2 * 24 - 1), (2, 24, 20))
