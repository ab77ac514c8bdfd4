"""The backbone of a config, distilled on the images of its training split before any label."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from castling_det.configs import build_model, softmax_twin, type_name
from castling_det.distilling import distill
from castling_det.errors import InputError
from castling_det.output_files import atomic_write, require_place
from castling_det.provenance import source_commit


def distill_backbone(cfg: Config, iterations: int, lr: float, out: Path) -> list[float]:
    """Distil a :class:`CastlingTimm` from the softmax model that its weights are of.

    Images come from ``train_dataloader``, augmented and normalised as for training.

    Args:
        cfg (Config): Its ``model.backbone.pretrained`` are the weights; ``randomness.seed`` is
            heeded.
        iterations (int): Batches of ``train_dataloader``.
        lr (float): As for :func:`castling_det.distill`.
        out (Path): File to write: the backbone's weights, which ``model.backbone.pretrained``
            takes. It appears whole or not at all.

    Returns:
        list[float]: The loss of each iteration.

    Raises:
        InputError: If the backbone is another one or has no weights to start from, or if ``out``
            cannot be written.
    """
    backbone = cfg.model.get('backbone', {})
    if type_name(backbone) != 'CastlingTimm' or not backbone.get('pretrained'):
        raise InputError(
            f'{cfg.filename}: distillation is for a CastlingTimm with trained weights: give '
            'model.backbone.pretrained'
        )
    require_place(out, '--out')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    set_random_seed(cfg.get('randomness', {}).get('seed') or 0)
    model, twin = build_model(cfg), build_model(softmax_twin(cfg))
    for each in (model, twin):
        each.backbone.init_weights()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    loader = Runner.build_dataloader(
        cfg.train_dataloader, seed=cfg.get('randomness', {}).get('seed')
    )
    losses = distill(
        model.to(device).backbone.train(),
        twin.to(device).backbone,
        _Images(loader, model.data_preprocessor),
        iterations,
        lr,
    )
    with atomic_write(out) as unfinished:
        weights = {key: value.cpu() for key, value in model.backbone.vit.state_dict().items()}
        meta = dict(distillation=dict(iterations=iterations, lr=lr, commit=source_commit()))
        torch.save(dict(state_dict=weights, meta=meta), unfinished)
    return losses


class _Images:
    """The preprocessed images of a loader, batch by batch, each time in another order."""

    def __init__(self, loader: DataLoader, preprocessor: nn.Module) -> None:
        self.loader, self.preprocessor, self.epoch = loader, preprocessor, 0

    def __iter__(self) -> Iterator[Tensor]:
        if hasattr(self.loader.sampler, 'set_epoch'):  # an infinite one has none
            self.loader.sampler.set_epoch(self.epoch)
        self.epoch += 1
        for batch in self.loader:
            yield self.preprocessor(batch, training=True)['inputs']
