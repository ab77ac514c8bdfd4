"""A config for somebody's own data, in which size, epochs, classes and model fit each other."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

from castling_det.checkpoint import SUFFIXES
from castling_det.datasets.own_data import OwnData
from castling_det.errors import InputError
from castling_det.models.levit import CastlingLeViT
from castling_det.models.vit import CastlingViT

WEIGHTS_VARIABLE = 'CASTLING_DET_WEIGHTS'
WEIGHTS_FOLDER = 'checkpoints'  # where our configs look for weights
LINE_LENGTH = 120  # of what is written
SIDES = dict(detection=416, segmentation=512, classification=224)  # where none is asked for
# By task and family: a file of configs/_base_/models, and what sides of images are multiples of.
BASES = {
    'detection': dict(
        levit=('castling-picodet_levit-128s', 32), dinov2=('castling-gfl_vit-s-p14-dinov2', 28)
    ),
    'segmentation': dict(
        levit=('castling-segformer_levit-nano', 64),
        vit=('castling-segformer_vit-nano', 32),
        dinov2=('castling-fcn_vit-s-p14-dinov2', 14),
    ),
    'classification': dict(
        levit=('castling-cls_levit-nano', 32),
        vit=('castling-cls_deit-tiny', 16),
        dinov2=('castling-cls_vit-s-p14-dinov2', 14),
    ),
}
# Width of PicoDet's neck and head, and convolutions of the head, as in configs/castling_picodet.
PICODET = {
    'nano': (64, 2),
    '128s': (96, 2),
    '128': (96, 2),
    '192': (128, 4),
    '256': (128, 4),
    '384': (160, 4),
}


@dataclass(frozen=True)
class Model:
    """A backbone that can be asked for by name.

    Attributes:
        family: 'levit', 'vit' or 'dinov2', as in :data:`BASES`.
        arch: Of the backbone.
        timm_name: Model of timm that has its weights, if one has.
        file_name: Pattern that the names of files of such weights match.
    """

    family: str
    arch: str = ''
    timm_name: str = ''
    file_name: str = '(?!)'


MODELS = {
    'levit-nano': Model('levit', 'nano'),
    **{
        f'levit-{arch}': Model('levit', arch, f'levit_{arch}', f'levit[-_]?{arch}(?![0-9s])')
        for arch in ('128s', '128', '192', '256', '384')
    },
    'vit-nano': Model('vit', 'nano'),
    'deit-tiny': Model('vit', 'deit-tiny', 'deit_tiny_patch16_224', 'deit_tiny_patch16_224'),
    'deit-small': Model('vit', 'deit-small', 'deit_small_patch16_224', 'deit_small_patch16_224'),
    'vit-s-dinov2': Model(
        family='dinov2',
        timm_name='vit_small_patch14_dinov2',
        file_name='(vit_?s_?14|vit_small_patch14_dinov2)(?!.*reg)',
    ),
}

# What is written: at most 25 lines, where classes and paths fit on one.
HEADER = '''\
"""{name} for {task}, written by castling-det new-config."""
_base_ = ['castling_det::_base_/models/{base}.py',
          'castling_det::_base_/own_data/{recipe}.py']
size, epochs = {size}, {epochs}  # {sides} in pixels, multiples of {step}
{data}
images = dict(data_root=root, metainfo=dict({metainfo}))
{splits}
{pipelines}
val_dataloader = dict(dataset=dict(val, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(test, pipeline=test_pipeline))
{model}
train_cfg = dict(max_epochs=epochs, val_interval=max(1, epochs // 10))
_base_.param_scheduler[0].end = max(1, epochs // 10)  # of the warm-up, in epochs
'''
PIPELINES = {
    'detection': """\
resize = dict(type='Resize', scale=size[::-1], keep_ratio=False)
test_pipeline = [*_base_.test_before, dict(resize, interpolation='bicubic'), *_base_.test_after]
train_dataloader = dict(dataset=dict(train, pipeline=[*_base_.before, resize, *_base_.after]))
val_evaluator, test_evaluator = (dict(ann_file=root + each['ann_file']) for each in (val, test))""",
    'segmentation': """\
zoom = dict(type='RandomResize', scale=size[::-1], ratio_range=(0.5, 2.0), keep_ratio=True)
crop = dict(type='RandomCrop', crop_size=size, cat_max_ratio=0.75)
train_dataloader = dict(dataset=dict(train, pipeline=[*_base_.before, zoom, crop, *_base_.after]))
test_pipeline = [*_base_.test_before, dict(_base_.resize, scale=size[::-1]), *_base_.test_after]""",
    'classification': """\
crop = dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.3, 1.0))
resize = dict(type='ResizeEdge', scale=size, edge='short', interpolation='bicubic')
centre = dict(type='CenterCrop', crop_size=size)
test_pipeline = [*_base_.test_before, resize, centre, *_base_.test_after]
train_dataloader = dict(dataset=dict(train, pipeline=[*_base_.before, crop, *_base_.after]))""",
}
MODEL_LINES = {
    ('detection', 'levit'): """\
model = dict(
    backbone=dict({backbone}), neck=dict(in_channels={maps}, out_channels={width}),
    bbox_head=dict(num_classes=len(classes), in_channels={width}, stacked_convs={num_convs}),
    train_cfg=dict(initial_epoch=epochs // 3),
)""",
    ('detection', 'dinov2'): """\
model = dict(
    backbone=dict({backbone}, drop_path_rate=0),
    bbox_head=dict(num_classes=len(classes)),
)""",
    ('segmentation', 'levit'): """\
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict({backbone}),
    decode_head=dict(num_classes=len(classes), in_channels={maps}),
)""",
    ('segmentation', 'vit'): """\
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict({backbone}, pos_grid=tuple(side // 16 for side in size)),
    neck=dict(in_channels={dims}),
    decode_head=dict(num_classes=len(classes)),
)""",
    ('segmentation', 'dinov2'): """\
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict({backbone}),
    decode_head=dict(num_classes=len(classes)),
)""",
    ('classification', 'levit'): """\
model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    backbone=dict({backbone}),
    head=dict(num_classes=len(classes), in_channels={dims}),
)""",
    ('classification', 'vit'): """\
model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    backbone=dict({backbone}, pos_grid=size // 16),
    head=dict(num_classes=len(classes), in_channels={dims}),
    train_cfg=None,  # a short training mixes no labels
)""",
    ('classification', 'dinov2'): """\
model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    backbone=dict({backbone}),
    head=dict(num_classes=len(classes)),
)""",
}
# mmdet rounds the width of a batch's size down to 32 px, which leaves little of such strips.
NARROW = 128
MULTI_SCALE = """\
scales = (0.85 * size[0], 1.15 * size[0])  # of training batches, rounded to 32 px
model = dict(
    data_preprocessor=dict(batch_augments=[dict(_base_.multi_scale, random_size_range=scales)]),
"""
# As the demo of configs/castling_seg: no clipping; its rate for 16 images / sqrt(16 / 4).
LEVIT_SEGMENTOR = '\noptim_wrapper = dict(optimizer=dict(lr=0.003), clip_grad=None)'


def find_weights(name: str) -> Path | None:
    """Trained weights of a model on this machine.

    They are looked for in the folder that ``CASTLING_DET_WEIGHTS`` names, in ``checkpoints`` and in
    timm's cache. What our own configs trained is no start: its name begins with ``castling-``.
    """
    model = MODELS[name]
    for folder in filter(None, (os.environ.get(WEIGHTS_VARIABLE), WEIGHTS_FOLDER)):
        for file in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
            is_weights = file.suffix in SUFFIXES and not file.name.startswith('castling-')
            if is_weights and re.search(model.file_name, file.name, re.IGNORECASE):
                return file.resolve()
    return _in_cache_of_timm(model.timm_name) if model.timm_name else None


def _in_cache_of_timm(name: str) -> Path | None:
    import timm  # which takes seconds
    from huggingface_hub import try_to_load_from_cache

    hub = timm.models.get_pretrained_cfg(name).hf_hub_id
    file = try_to_load_from_cache(hub, 'model.safetensors')
    return Path(file) if isinstance(file, str) else None


def input_size(name: str, task: str, sides: Sequence[int] | None) -> tuple[int, int]:
    """Height and width for a model, those of its task where none are asked for.

    Args:
        name (str): One of :data:`MODELS`.
        task (str): As of :class:`OwnData`.
        sides (Sequence[int], optional): The side of a square, or height and width.

    Raises:
        InputError: If there is no such model for the task, or the sides do not fit it.
    """
    family = MODELS[name].family
    if family not in BASES[task]:
        fitting = (each for each, model in MODELS.items() if model.family in BASES[task])
        raise InputError(f'--model {name} is not there for {task}: take {", ".join(fitting)}')
    step = BASES[task][family][1]
    sides = sides or [round(SIDES[task] / step) * step]
    if len(sides) > (1 if task == 'classification' else 2):
        wanted = 'one side' if task == 'classification' else 'one side, or height and width'
        raise InputError(f'--size {" ".join(map(str, sides))}: give {wanted} for {task}')
    for side in sides:
        if side < step or side % step:
            lower = max(1, side // step) * step
            raise InputError(
                f'--size {side}: {name} takes multiples of {step} for {task}, as {lower} or '
                f'{lower + step}'
            )
    return sides[0], sides[-1]


def starts_trained(name: str, weights: Path | None) -> bool:
    """Whether a config of :func:`config_text` starts from trained weights."""
    return weights is not None or MODELS[name].family == 'dinov2'


def config_text(
    data: OwnData, name: str, size: tuple[int, int], epochs: int, weights: Path | None
) -> str:
    """A config in which size and epochs stand once; its bases are ``castling_det::``'s.

    Args:
        data (OwnData): What it trains on.
        name (str): One of :data:`MODELS`.
        size (tuple[int, int]): Height and width, of :func:`input_size`.
        epochs (int): At least 1.
        weights (Path, optional): File to start from. Without it DINOv2 starts from the weights that
            timm downloads, the others from random ones.
    """
    task, model, trained = data.task, MODELS[name], starts_trained(name, weights)
    base, step = BASES[task][model.family]
    is_square = task == 'classification'
    root = data.root.as_posix().rstrip('/') + '/'
    start = f'root, classes = {root!r}, '
    values = [start + pformat(data.classes, width=LINE_LENGTH - len(start), compact=True)]
    values += [f'weights = {_start(model, weights)}'] if trained else []
    if data.palette:
        values += [f'palette = {pformat(data.palette, width=LINE_LENGTH - 10, compact=True)}']
    splits = [f'{key} = dict(images, {_arguments(part.keys)})' for key, part in data.splits.items()]
    splits += ['test = val'] if 'test' not in data.splits else []
    return HEADER.format(
        name=name,
        task=task,
        base=base,
        recipe=f'{task}_trained' if trained else task,
        size=size[0] if is_square else size,
        sides='the side' if is_square else 'height and width',
        epochs=epochs,
        step=step,
        data='\n'.join(values),
        metainfo='classes=classes' + (', palette=palette' if data.palette else ''),
        splits='\n'.join(splits),
        pipelines=PIPELINES[task],
        model=_model(task, model, trained, size),
    )


def _start(model: Model, weights: Path | None) -> str:
    if model.family == 'dinov2':
        return repr(str(weights)) if weights else 'True  # those that timm downloads'
    return f"dict(type='Pretrained', checkpoint={str(weights)!r})"


def _model(task: str, model: Model, trained: bool, size: tuple[int, int]) -> str:
    backbone = f'arch={model.arch!r}' + (', init_cfg=weights' if trained else '')
    maps, (width, num_convs) = [384], PICODET.get(model.arch, (None, None))
    if model.family == 'dinov2':
        backbone = 'pretrained=weights'
    elif model.family == 'vit':
        maps = [CastlingViT.arch_zoo[model.arch]['embed_dims']]
    else:
        dims = CastlingLeViT.arch_zoo[model.arch]['embed_dims']
        maps = [dims[0] // 2, *dims]
    text = MODEL_LINES[task, model.family].format(
        backbone=backbone, maps=maps, dims=maps[-1], width=width, num_convs=num_convs
    )
    if (task, model.family, trained) == ('segmentation', 'levit', False):
        text += LEVIT_SEGMENTOR
    if (task, model.family) == ('detection', 'levit') and size[1] >= NARROW:
        text = text.replace('model = dict(\n', MULTI_SCALE)
    return text


def _arguments(keys: dict) -> str:
    """As in a call; dicts in it as calls too."""
    return ', '.join(
        f'{key}=dict({_arguments(value)})' if isinstance(value, dict) else f'{key}={value!r}'
        for key, value in keys.items()
    )
