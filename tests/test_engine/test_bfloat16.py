"""Mixed precision on a CPU, against autocast and SGD by hand."""

import copy

import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn


def test_products_are_in_bfloat16_and_the_step_in_float32():
    torch.manual_seed(0)
    model, images = nn.Linear(16, 4), torch.randn(8, 16)
    by_hand = copy.deepcopy(model)
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='BFloat16OptimWrapper', optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
    )

    def loss(products: Tensor) -> Tensor:
        assert products.dtype == torch.bfloat16
        return products.float().square().mean()

    with wrapper.optim_context(model):
        value = loss(model(images))
    wrapper.update_params(value)

    exact = loss((images.bfloat16() @ by_hand.weight.bfloat16().T) + by_hand.bias.bfloat16())
    exact.backward()
    torch.testing.assert_close(value, exact, rtol=1e-2, atol=0)
    for parameter, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert parameter.dtype == torch.float32
        moved = other - 0.5 * other.grad
        torch.testing.assert_close(parameter, moved, rtol=1e-2, atol=1e-2)
    assert model(images).dtype == torch.float32
