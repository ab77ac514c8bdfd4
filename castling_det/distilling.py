"""A castlified ViT learns from the softmax ViT that it was, without labels.

Each attention module of the copy learns to give what the original's gives for the same input, all
at once and each for itself: an error in one block does not reach the next, and no gradient passes
through the rest of the model.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from castling_det.castlifying import CHILD, castlified_modules, record_grid
from castling_det.errors import InputError
from castling_det.models.focal_attention import LINEAR

WARM_UP = 20  # iterations
LOG_INTERVAL = 50  # iterations


class AttentionDistillation:
    """How far the attention modules of a castlified model are from the original's, as a loss.

    Modules without a parameter that requires a gradient, as those of frozen stages, do not count.

    Args:
        model (nn.Module): Castlified, in any mode.
        original (nn.Module): What it was before, in eval mode.

    Raises:
        InputError: If ``model`` is not castlified or all frozen, or if ``original`` is castlified,
            or is another model.
    """

    def __init__(self, model: nn.Module, original: nn.Module) -> None:
        self.original = original
        self.modules = castlified_modules(model)
        if not self.modules:
            raise InputError(f'{type(model).__name__} is not castlified: nothing to distil')
        theirs = dict(original.named_modules())
        is_linear = any(isinstance(module, LINEAR) for module in theirs.values())
        if is_linear or not self.modules.keys() <= theirs.keys():
            raise InputError('the original is to be a copy of what the model was before castlify')
        self.grid = getattr(next(iter(self.modules.values())), CHILD).grid
        self.modules = {name: each for name, each in self.modules.items() if _trained(each)}
        if not self.modules:
            raise InputError(
                f'all attention modules of {type(model).__name__} are frozen: lower frozen_stages, '
                'or distil before requires_grad_(False)'
            )
        self.originals = {name: theirs[name] for name in self.modules}

    def __call__(self, images: Tensor, **options: Any) -> Tensor:
        """Mean over the modules of the squared error relative to the original's mean square.

        Tokens that are not on the grid are apart, and count as much as all others together.

        Args:
            images (Tensor): As the model takes them.
            options: What the model is called with besides.

        Returns:
            Tensor: A scalar.
        """
        calls = {}
        hooks = [
            module.register_forward_hook(
                lambda *call, name=name: calls.__setitem__(name, call[1:]), with_kwargs=True
            )
            for name, module in self.originals.items()
        ]
        hooks += record_grid(self.grid, self.original, self.originals.values())
        try:
            with torch.no_grad():
                self.original(images, **options)
        finally:
            for hook in hooks:
                hook.remove()
        errors = []
        for name, (args, kwargs, target) in calls.items():
            target, output = _tokens(target), _tokens(self.modules[name](*args, **kwargs))
            extra = 0 if self.grid.hw is None else target.shape[1] - math.prod(self.grid.hw)
            errors.append(_relative_error(output[:, extra:], target[:, extra:]))
            if extra:
                errors[-1] = errors[-1] + _relative_error(output[:, :extra], target[:, :extra])
        return torch.stack(errors).mean()


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _tokens(output: Tensor | tuple) -> Tensor:
    """What an attention module gives, without its weights or its grid."""
    return output if isinstance(output, Tensor) else output[0]


def _relative_error(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean() / target.square().mean()


def distill(
    model: nn.Module,
    original: nn.Module,
    batches: Iterable,
    iterations: int,
    lr: float = 1e-4,
) -> list[float]:
    """Train the attention modules of a castlified model to give what the original's give, in place.

    Example::

        original = copy.deepcopy(model)
        castling_det.castlify(model)
        castling_det.distill(model, original, loader, iterations=300)

    Args:
        model (nn.Module): Castlified.
        original (nn.Module): What it was before.
        batches (Iterable): Of images as the model takes them, of tuples that begin with them, or of
            mappings that have them as ``pixel_values``; gone through again when it ends. Nothing
            else of a batch is used.
        iterations (int): A batch each.
        lr (float): Highest rate; it rises over 20 iterations and falls along a cosine. Defaults to
            1e-4.

    Returns:
        list[float]: The loss of each iteration, :class:`AttentionDistillation`.

    Raises:
        InputError: As :class:`AttentionDistillation`, for no iterations, for too few batches, and
            for mappings without ``pixel_values``.
    """
    if iterations < 1:
        raise InputError(f'distillation needs an iteration or more, not iterations={iterations}')
    distance = AttentionDistillation(model, original.eval())
    parameters = [p for module in distance.modules.values() for p in _trained(module)]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    schedule = LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / WARM_UP) * (1 + math.cos(math.pi * i / iterations)) / 2,
    )
    losses = []
    for images in _images(batches, iterations):
        torch.clear_autocast_cache()  # the caller's, which has the weights before the last step
        loss = distance(images.to(parameters[0].device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % LOG_INTERVAL == 0 or len(losses) == iterations:
            error = sum(losses[-LOG_INTERVAL:]) / len(losses[-LOG_INTERVAL:])
            print_log(f'distill [{len(losses)}/{iterations}] error {error:.4f}', logger='current')
    return losses


def _images(batches: Iterable, iterations: int) -> Iterator[Tensor]:
    done = 0
    while done < iterations:
        before = done
        for batch in itertools.islice(batches, iterations - done):
            yield _images_of(batch)
            done += 1
        if done == before:
            raise InputError(f'distillation has {done} batches for {iterations} iterations')


def _images_of(batch: Tensor | tuple | Mapping) -> Tensor:
    if isinstance(batch, Tensor):
        return batch
    if not isinstance(batch, Mapping):
        return batch[0]
    if 'pixel_values' not in batch:
        raise InputError(
            f'a batch holds {", ".join(map(str, batch))}, but no pixel_values: give images alone, '
            'tuples that begin with them, or mappings with pixel_values'
        )
    return batch['pixel_values']
