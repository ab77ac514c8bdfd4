"""What a data set's pipeline makes of its images, boxes, label maps and classes.

Needs mmdet, and the library of the data set.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from numpy import ndarray

from castling_det.configs import refuse_pretraining, type_name
from castling_det.datasets.loading import LoadReadableImage
from castling_det.errors import InputError
from castling_det.visualization.drawing import draw, visualizer_for

READABLE_ARGUMENTS = {'type', 'color_type', 'on_error'}


def drawn_samples(cfg: Config, split: str, num: int) -> Iterator[tuple[str, ndarray]]:
    """Draw samples as they leave the pipeline, evenly over the data set.

    On them are their boxes, label map or class. Augmentations differ from call to call. What comes
    after the pipeline is not seen: normalisation and ``batch_augments``, which are the data
    preprocessor's. A test pipeline keeps its annotations in pixels of the image file; to fit on
    what the model sees they are loaded before the image is resized here.

    Args:
        cfg (Config): With a ``{split}_dataloader``.
        split (str): 'train', 'val' or 'test'.
        num (int): At most so many.

    Yields:
        tuple[str, ndarray]: Place in the data set and stem of the image file, and the picture
        ``(H, W, 3)``, uint8, RGB, small ones enlarged, label maps with a legend.

    Raises:
        InputError: If the config has no such data loader, if an image cannot be read, or for a
            pretraining.
    """
    dataloader = cfg.get(f'{split}_dataloader')
    if dataloader is None:
        raise InputError(f'the config has no {split}_dataloader: choose another --split')
    refuse_pretraining(cfg, 'labels to draw')
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset_cfg = deepcopy(dataloader.dataset)
    if split != 'train' and 'pipeline' in dataset_cfg:
        dataset_cfg.pipeline.sort(key=lambda transform: not type_name(transform).startswith('Load'))
    _name_what_is_unreadable(dataset_cfg)
    dataset = DATASETS.build(dataset_cfg)
    for index in np.linspace(0, len(dataset) - 1, min(num, len(dataset)), dtype=int).tolist():
        sample = dataset[index]
        image = sample['inputs'].flip(0).permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
        truth = sample['data_samples']
        if isinstance(truth, DetDataSample):
            truth.gt_instances.bboxes = get_box_tensor(truth.gt_instances.bboxes)
        visualizer = visualizer_for(truth, dataset.metainfo)
        name = f'{index:06d}_{Path(truth.img_path).stem}'
        yield name, draw(visualizer, image, truth, truth=True)


def _name_what_is_unreadable(node: object) -> None:
    """Put ``LoadReadableImage(on_error='raise')`` where images are loaded, as deep as wrappers go.

    Loading with other arguments than the colour type (as ``to_float32``) is left as it is.
    """
    if isinstance(node, list):
        for child in node:
            _name_what_is_unreadable(child)
    if not isinstance(node, dict):
        return
    name = type_name(node)
    given = {key for key, value in node.items() if value}
    if name in ('LoadImageFromFile', LoadReadableImage.__name__) and given <= READABLE_ARGUMENTS:
        color_type = node.get('color_type', 'color')
        node.clear()
        node.update(type=LoadReadableImage.__name__, color_type=color_type)
    for child in node.values():
        _name_what_is_unreadable(child)
