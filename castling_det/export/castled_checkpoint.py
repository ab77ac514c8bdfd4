"""From a training checkpoint to the two files that ship: weights and config of inference form."""

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from castling_det.castling import castle
from castling_det.checkpoint import load_weights, require_file
from castling_det.configs import build_model, type_name
from castling_det.errors import InputError
from castling_det.models.attention import MaskedSoftmax
from castling_det.output_files import atomic_write, require_writable

_KEPT_META = ('dataset_meta', 'epoch', 'iter', 'castling')


@dataclass(frozen=True)
class CastledFiles:
    """What :func:`castle_checkpoint` wrote, and what it knows of the masks.

    Attributes:
        checkpoint (Path): ``NAME-castled-xxxxxxxx.pth``, with the start of its sha256.
        config (Path): The config of the inference form, beside it, of the same stem.
        ramp (float, optional): Ramp of the last training iteration; None if the training's
            checkpoint does not say.
        nonzeros (dict[str, float]): Share of the softmax entries above the threshold by layer, when
            last measured in training; 0 in every layer at ramp 1.
    """

    checkpoint: Path
    config: Path
    ramp: float | None
    nonzeros: dict[str, float]

    def warning(self) -> str | None:
        """Why the castled model may not be what was trained; None where it is."""
        if self.ramp is None:
            return (
                'the checkpoint does not say whether its masks had vanished (no '
                "meta['castling']: it was trained without CastlingHook)"
            )
        if self.ramp >= 1:
            return None
        layers = '  '.join(f'{name}: {share:.3%}' for name, share in self.nonzeros.items())
        return (
            f'the masks had not vanished: the ramp was {self.ramp:.4g}; nonzeros of the softmax '
            f'entries by layer, when last measured: {layers or "never measured"}'
        )


def castle_checkpoint(
    cfg: Config, checkpoint: str | Path, out: str | Path, name: str
) -> CastledFiles:
    """Write the evaluated weights of a checkpoint, and nothing else of it, with their config.

    Args:
        cfg (Config): Config that the checkpoint was trained with; it is not changed.
        checkpoint (str | Path): A Runner's checkpoint, whose ``state_dict`` is the average where it
            was trained with EMA, or a state dict.
        out (str | Path): Folder, or a file ``NAME.pth`` for another NAME.
        name (str): NAME in a folder.

    Returns:
        CastledFiles: Both paths. The checkpoint loads with ``torch.load(weights_only=True)``.

    Raises:
        InputError: If the checkpoint does not exist, is not read safely or does not fit the config,
            if the config's model has no CastlingAttention or does not name it, or if nothing can be
            written there.
    """
    out = Path(out)
    folder, name = (out.parent, out.stem) if out.suffix == '.pth' else (out, name)
    require_writable(folder, '--out')
    require_file(checkpoint)
    castled_cfg = inference_config(cfg)
    model = build_model(castled_cfg)
    if any(isinstance(module, MaskedSoftmax) for module in model.modules()):
        raise InputError(
            f'{cfg.filename}: the model has a CastlingAttention that its config does not name: '
            "write attn=dict(type='CastlingAttention') where it is chosen"
        )
    try:
        castle(model)
    except InputError as error:
        raise InputError(f'{cfg.filename}: {error}') from error
    trained = load_weights(model, checkpoint)

    text = castled_cfg.pretty_text
    meta = {key: value for key, value in trained.get('meta', {}).items() if key in _KEPT_META}
    content = BytesIO()
    torch.save(
        dict(
            meta=dict(meta, cfg=text),
            state_dict={key: value.clone() for key, value in model.state_dict().items()},
        ),
        content,
    )
    content = content.getvalue()
    torch.load(BytesIO(content), weights_only=True)
    stem = f'{name}-castled-{hashlib.sha256(content).hexdigest()[:8]}'
    for suffix, written in (('.py', text.encode()), ('.pth', content)):
        with atomic_write(folder / f'{stem}{suffix}') as unfinished:
            unfinished.write_bytes(written)
    masks = meta.get('castling', dict(ramp=None, nonzeros={}))
    paths = folder / f'{stem}.pth', folder / f'{stem}.py'
    return CastledFiles(*paths, ramp=masks['ramp'], nonzeros=masks['nonzeros'])


def inference_config(cfg: Config) -> Config:
    """The same config with ``aux=None`` in every CastlingAttention that its model names."""
    cfg = deepcopy(cfg)

    def drop_aux(node: Any) -> None:
        if isinstance(node, dict):
            if 'type' in node and type_name(node) == 'CastlingAttention':
                node['aux'] = None
            node = list(node.values())
        if isinstance(node, list | tuple):
            for child in node:
                drop_aux(child)

    drop_aux(cfg.model)
    cfg.load_from, cfg.resume = None, False
    return cfg
