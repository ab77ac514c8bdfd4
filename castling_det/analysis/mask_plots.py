"""Pictures of vanishing masks: nonzeros over a training, and masks over an image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor, nn

from castling_det.analysis.train_log import read_log
from castling_det.castling import castling_attentions
from castling_det.checkpoint import load_weights
from castling_det.configs import build_model, input_shape, refuse_pretraining
from castling_det.errors import InputError
from castling_det.models.attention import CastlingAttention, Grid

_PREFIX = 'nonzeros/'


def read_nonzeros(work_dir: str | Path) -> dict[int, dict[str, float]]:
    """What :class:`CastlingHook` logged in all runs of a work dir, the later run's where two did.

    Returns:
        dict[int, dict[str, float]]: By iteration: ``'ramp'``, and the nonzeros by layer.

    Raises:
        InputError: If no run in ``work_dir`` logged any.
    """
    logged: dict[int, dict[str, float]] = {}
    for field, (iterations, values) in read_log(Path(work_dir)).items():
        if field == 'ramp' or field.startswith(_PREFIX):
            for iteration, value in zip(iterations.tolist(), values.tolist(), strict=True):
                logged.setdefault(iteration, {})[field.removeprefix(_PREFIX)] = value
    if not logged:
        raise InputError(
            f'{work_dir} has no */vis_data/scalars.json with {_PREFIX}...: '
            'train with CastlingHook, and with an interval under the number of iterations'
        )
    return dict(sorted(logged.items()))


def plot_nonzeros(logged: dict[int, dict[str, float]]) -> Figure:
    """Nonzeros of each layer, in percent, and the ramp, over the iterations."""
    steps = list(logged)
    layers = [name for name in next(iter(logged.values())) if name != 'ramp']
    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes = figure.subplots()
    colors = colormaps['viridis'](np.linspace(0, 0.9, len(layers)))
    for layer, color in zip(layers, colors, strict=True):
        percent = [100 * logged[step].get(layer, np.nan) for step in steps]
        axes.plot(steps, percent, color=color, label=layer)
    # A share of 0 has no logarithm: the axis is linear below the smallest one that was measured.
    shares = [100 * scalars[name] for scalars in logged.values() for name in scalars]
    axes.set_yscale('symlog', linthresh=min((s for s in shares if s > 0), default=1))
    axes.set(xlabel='iteration', ylabel='nonzeros of the softmax, %', ylim=(0, None))
    ramp = axes.twinx()
    ramp.plot(steps, [logged[step]['ramp'] for step in steps], 'k--', linewidth=1)
    ramp.set(ylabel='ramp (dashed)', ylim=(0, 1.05))
    figure.legend(loc='outside lower center', ncols=2, fontsize=7)
    return figure


def load_run(work_dir: str | Path) -> tuple[Config, nn.Module]:
    """Config and last checkpoint (the evaluated weights) of a work dir, as a model in eval mode.

    Raises:
        InputError: If the work dir has no config, several, or no checkpoint that fits, or if it is
            of a pretraining.
    """
    work_dir = Path(work_dir)
    configs, last = sorted(work_dir.glob('*.py')), work_dir / 'last_checkpoint'
    if not configs or not last.is_file():
        raise InputError(f'{work_dir} is no work dir: needs a config and last_checkpoint')
    if len(configs) > 1:
        names = ', '.join(config.name for config in configs)
        raise InputError(f'{work_dir} holds several configs, leave one: {names}')
    cfg = Config.fromfile(configs[0])
    refuse_pretraining(cfg, 'pictures of masks')
    model = build_model(cfg)
    load_weights(model, work_dir / Path(last.read_text().strip()).name)
    return cfg, model.eval()


def example_image(
    cfg: Config, file: str | Path | None = None, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """An image at the size that the model sees in tests.

    Args:
        cfg (Config): Config of the run.
        file (str | Path, optional): Image file. Defaults to None, the first validation image.
        shape (tuple[int, int], optional): Height and width of a file's. Defaults to those of the
            config's test.

    Returns:
        np.ndarray: ``(H, W, 3)``, uint8, BGR.

    Raises:
        InputError: If the file is no image that can be read.
    """
    if file is None:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
            first = DATASETS.build(cfg.val_dataloader.dataset)[0]
        return first['inputs'].permute(1, 2, 0).numpy()
    image = cv2.imread(str(file))
    if image is None:
        raise InputError(f'{file} is no image that can be read')
    height, width = shape or input_shape(cfg)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class LayerInputs:
    """What reached one attention: ``(1, H, Nq, Dk)`` queries, ``(1, H, Nk, Dk)`` keys, grids."""

    q: Tensor
    k: Tensor
    q_hw: Grid
    kv_hw: Grid
    num_extra_tokens: int


def layer_inputs(model: nn.Module, image: np.ndarray) -> dict[str, LayerInputs]:
    """Run a detector or segmentor in inference form on one image, and keep what attentions see.

    Args:
        model (nn.Module): In eval mode, with mmdet's or mmseg's ``data_preprocessor``.
        image (np.ndarray): ``(H, W, 3)``, uint8, BGR.

    Returns:
        dict[str, LayerInputs]: By name of the layer.

    Raises:
        InputError: If no attention of the model has an auxiliary branch, or if one has no grid.
    """
    seen = {}

    def keep(name: str) -> Callable:
        def hook(module: CastlingAttention, args: tuple, kwargs: dict) -> None:
            given = signature(module.forward).bind(*args, **kwargs)
            given.apply_defaults()
            fields = LayerInputs.__dataclass_fields__
            if given.arguments['q_hw'] is None:
                raise InputError(
                    f'{name} is not told its grid (q_hw): nothing to lay over an image'
                )
            seen[name] = LayerInputs(**{field: given.arguments[field] for field in fields})

        return hook

    handles = [
        attention.register_forward_pre_hook(keep(name), with_kwargs=True)
        for name, attention in castling_attentions(model)
    ]
    if not handles:
        raise InputError(f'{type(model).__name__} has no auxiliary branch: no masks to draw')
    batch = dict(inputs=[torch.tensor(image).permute(2, 0, 1)], data_samples=None)
    try:
        with torch.no_grad():
            model(model.data_preprocessor(batch)['inputs'])
    finally:
        for handle in handles:
            handle.remove()
    return seen


def plot_masks(
    model: nn.Module,
    image: np.ndarray,
    ramps: Sequence[float],
    place: tuple[float, float] = (0.5, 0.5),
) -> Figure:
    """Which keys the masks of each layer leave to one query, over the image.

    A row is a layer, a column a ramp. Red is the share of the heads that keep a key; below stand
    the nonzeros of all queries and heads.

    Args:
        model (nn.Module): As for :func:`layer_inputs`.
        image (np.ndarray): ``(H, W, 3)``, uint8, BGR.
        ramps (Sequence[float]): 0 (the threshold t0) to 1 (empty masks).
        place (tuple[float, float]): Of the query, down and across, in shares of the image.
            Defaults to its middle.
    """
    attentions, seen = dict(castling_attentions(model)), layer_inputs(model, image)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    panel_height = 2.6 * height / width + 0.5
    figure = Figure(
        figsize=(2.6 * len(ramps) + 0.3, panel_height * len(seen)), layout='constrained'
    )
    rows = figure.subplots(len(seen), len(ramps), squeeze=False)
    for (name, inputs), row in zip(seen.items(), rows, strict=True):
        cell = [min(int(p * n), n - 1) for p, n in zip(place, inputs.q_hw, strict=True)]
        query = inputs.num_extra_tokens + cell[0] * inputs.q_hw[1] + cell[1]
        for ramp, axes in zip(ramps, row, strict=True):
            mask = attentions[name].aux.mask(inputs.q, inputs.k, ramp)[0]  # (H, Nq, Nk)
            kept = (
                mask[:, query, inputs.num_extra_tokens :].float().mean(0).unflatten(0, inputs.kv_hw)
            )
            axes.imshow(grey, extent=(0, width, height, 0), cmap='gray', vmin=0, vmax=255)
            red = np.zeros((*inputs.kv_hw, 4))
            red[..., 0], red[..., 3] = 1, 0.75 * kept.numpy()
            axes.imshow(red, extent=(0, width, height, 0), interpolation='nearest')
            y, x = ((i + 0.5) / n for i, n in zip(cell, inputs.q_hw, strict=True))
            axes.plot(x * width, y * height, 'w+', markersize=8)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f'ramp {ramp:g}: {mask.float().mean():.2%}', fontsize=8)
        row[0].set_title(name, loc='left', fontsize=8)
    return figure
