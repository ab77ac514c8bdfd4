"""From a softmax ViT to its castlified copy without labels: calibration, then distillation.

Each attention module of the copy learns to give what the original's gives for the same input, all
at once and each for itself: an error in one block does not reach the next, and no gradient passes
through the rest of the model.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from castling_det.castlifying import CHILD, castlified_modules, record_grid
from castling_det.errors import InputError
from castling_det.models.centred_attention import LINEAR, CentredAttention

WARM_UP = 20  # iterations
NEW_LR = 50.0  # rate of what castlify added, relative to that of trained weights
LOG_INTERVAL = 50  # iterations


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor, **options: Any) -> None:
    """Set every :class:`CentredAttention` by least squares, from what softmax gives in its place.

    Each sees what it would see in the original model; no gradient, no label, one forward pass.

    Args:
        model (nn.Module): Just castlified, or a backbone with such attention and trained weights.
        images (Tensor): 8 to 16 of them, as the model takes them.
        options: What the model is called with besides.

    Raises:
        InputError: If there is no CentredAttention in the model.
    """
    attentions = [m for m in model.modules() if isinstance(m, CentredAttention)]
    if not attentions:
        raise InputError(f'{type(model).__name__} has no CentredAttention: nothing to calibrate')
    modes = [(module, module.training) for module in model.modules()]
    fit = [
        attention.register_forward_hook(
            lambda attention, args, kwargs, _: attention.fit(*args, **kwargs), with_kwargs=True
        )
        for attention in attentions
    ]
    try:
        model.eval()
        model(images, **options)
    finally:
        for hook in fit:
            hook.remove()
        for module, mode in modes:
            module.training = mode


class AttentionDistillation:
    """How far the attention modules of a castlified model are from the original's, as a loss.

    Args:
        model (nn.Module): Castlified, in any mode.
        original (nn.Module): What it was before, in eval mode.

    Raises:
        InputError: If ``model`` is not castlified, or if ``original`` is, or is another model.
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
        self.originals = {name: theirs[name] for name in self.modules}
        self.grid = getattr(next(iter(self.modules.values())), CHILD).grid

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
    """Calibrate a castlified model on the first batch, and train its attention modules, in place.

    Example::

        original = copy.deepcopy(model)
        castling_det.castlify(model)
        castling_det.distill(model, original, loader, iterations=300)

    Args:
        model (nn.Module): Castlified; what is no :class:`CentredAttention` is not calibrated.
        original (nn.Module): What it was before.
        batches (Iterable): Of images as the model takes them, or of tuples that begin with them;
            gone through again when it ends. Nothing else of a tuple is used.
        iterations (int): A batch each.
        lr (float): Highest rate of the attention's trained weights; that of what castlify added is
            50 times as high. Both rise over 20 iterations and fall along a cosine. Defaults to
            1e-4.

    Returns:
        list[float]: The loss of each iteration, :class:`AttentionDistillation`.

    Raises:
        InputError: As :class:`AttentionDistillation`, for no iterations, and for too few batches.
    """
    if iterations < 1:
        raise InputError(f'distillation needs an iteration or more, not iterations={iterations}')
    distance = AttentionDistillation(model, original.eval())
    new, old = [], []
    for module in distance.modules.values():
        added = {id(parameter) for parameter in getattr(module, CHILD).parameters()}
        for parameter in module.parameters():
            (new if id(parameter) in added else old).append(parameter)
    groups = [dict(params=old), dict(params=new, lr=NEW_LR * lr)]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=0.0)
    schedule = LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / WARM_UP) * (1 + math.cos(math.pi * i / iterations)) / 2,
    )
    losses = []
    for images in _images(batches, iterations):
        images = images.to(old[0].device)
        if not losses and any(isinstance(m, CentredAttention) for m in model.modules()):
            calibrate(model, images)
        torch.clear_autocast_cache()  # the caller's, which has the weights before the last step
        loss = distance(images)
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
            yield batch if isinstance(batch, Tensor) else batch[0]
            done += 1
        if done == before:
            raise InputError(f'distillation has {done} batches for {iterations} iterations')
