"""What MAE makes of images that it sees a part of, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from numpy import ndarray
from torch import Tensor, nn

from castling_det.checkpoint import load_weights
from castling_det.configs import build_model, input_shape, task_of
from castling_det.errors import InputError


def load_pretraining(cfg: Config, checkpoint: str | Path) -> nn.Module:
    """The MAE of a config with trained weights, in eval mode.

    Raises:
        InputError: If the config is of another model, or the checkpoint does not fit.
    """
    if task_of(cfg) != 'pretraining':
        raise InputError(f'{cfg.filename}: model.type is {cfg.model.type!r}, and only MAE paints')
    model = build_model(cfg)
    load_weights(model, checkpoint)
    return model.eval()


def read_square(file: Path, side: int) -> ndarray:
    """The middle of an image file as ``(side, side, 3)``, uint8, BGR.

    Raises:
        InputError: If it is no image that can be read.
    """
    image = cv2.imread(str(file))
    if image is None:
        raise InputError(f'{file} is no image that can be read')
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = image[top : top + short, left : left + short]
    return cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA)


@torch.no_grad()
def reconstruct(model: nn.Module, images: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Hide patches of a batch, and let the model paint them.

    Args:
        model (nn.Module): mmpretrain's ``MAE`` in eval mode.
        images (Tensor): ``(B, 3, H, W)``, uint8, BGR.
        seed (int): Of the choice of the patches. Defaults to 0.

    Returns:
        dict[str, Tensor]: ``(B, 3, H, W)`` each, uint8, RGB, by what they show; hidden patches are
        of the mean colour. If the model predicts normalised patches (``norm_pix``) the mean and the
        contrast of each are the image's own, not predicted, and a last picture shows that mean.
    """
    images = model.data_preprocessor(dict(inputs=images, data_samples=None))['inputs']
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        latent, mask, ids_restore = model.backbone(images)
    painted, patches = model.neck(latent, ids_restore), model.head.patchify(images)
    given = {}
    if model.head.norm_pix:
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        painted = painted * (variance + 1e-6).sqrt() + mean
        given = {'mean of each patch, given': mean.expand_as(patches)}
    hides = mask[..., None].bool()
    shown = {'image': patches, 'visible': torch.zeros_like(patches), 'reconstruction': painted}
    pictures = {}
    for name, hidden in (shown | given).items():
        picture = model.head.unpatchify(torch.where(hides, hidden, patches))
        picture = picture * model.data_preprocessor.std + model.data_preprocessor.mean
        pictures[name] = picture.round().clamp(0, 255).byte()
    return pictures


def plot_reconstructions(
    cfg: Config, checkpoint: str | Path, files: Sequence[Path], seed: int = 0
) -> Figure:
    """A row for each image: what it is, what the encoder sees, and what the decoder paints.

    Args:
        cfg (Config): Of a pretraining.
        checkpoint (str | Path): Of a training with that config.
        files (Sequence[Path]): Images, of which the middle is shown.
        seed (int): Of the choice of the patches. Defaults to 0.
    """
    model, (side, _) = load_pretraining(cfg, checkpoint), input_shape(cfg)
    batch = np.stack([read_square(file, side) for file in files])
    pictures = reconstruct(model, torch.from_numpy(batch).permute(0, 3, 1, 2), seed)
    figure = Figure(figsize=(2.2 * len(pictures), 2.3 * len(files)), layout='constrained')
    rows = figure.subplots(len(files), len(pictures), squeeze=False)
    for column, (name, batch) in zip(rows.T, pictures.items(), strict=True):
        for axes, picture in zip(column, batch, strict=True):
            axes.imshow(picture.permute(1, 2, 0).numpy())
            axes.set_axis_off()
        column[0].set_title(name, fontsize=9)
    return figure
