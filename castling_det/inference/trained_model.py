"""A checkpoint's model as a function of images. Needs mmdet, and the library of the model."""

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from numpy import ndarray

from castling_det.castling import castling_attentions
from castling_det.checkpoint import load_weights
from castling_det.configs import build_model, refuse_pretraining, task_of, type_name
from castling_det.errors import InputError
from castling_det.visualization.palette import palette_of


class TrainedModel:
    """A trained detector, segmentor or classifier as a function of images.

    They go through the test pipeline, but for the loading of image and annotations. A segmentor
    predicts as a whole or in sliding windows, as ``model.test_cfg`` says.

    mmdet's ``init_detector`` gives a checkpoint without class names those of COCO; here they come
    from the config's test data then. mmseg's ``inference_model`` takes its pipeline from a variable
    of the config file, which a leaf's data loader need not have; here it is the data loader's.

    Args:
        cfg (Config): Whole config of the model, with the test pipeline.
        checkpoint (str | Path): Local file: of a Runner, or a bare state dict.
        device (str): As torch names it. Defaults to 'cpu'.

    Attributes:
        model (nn.Module): In the mode of evaluation.
        classes (tuple[str, ...]): Names, in the order of the labels.
        palette (list[tuple]): A colour (R, G, B) for each of them.

    Raises:
        InputError: If the checkpoint does not exist or is of another model, if there is no such
            device, or for a pretraining.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, device: str = 'cpu') -> None:
        if device.startswith('cuda') and not torch.cuda.is_available():
            raise InputError(f'device {device}: torch finds no GPU here; take --device cpu')
        refuse_pretraining(cfg, 'predictions and files')
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        self.model = build_model(cfg)
        meta = load_weights(self.model, checkpoint).get('meta', {})
        dataset = dict(deepcopy(cfg.test_dataloader.dataset), lazy_init=True)
        metainfo = DATASETS.build(dataset).metainfo | meta.get('dataset_meta', {})
        self.classes = tuple(metainfo['classes'])
        self.palette = palette_of(metainfo)
        masks = meta.get('castling', dict(ramp=0.0))
        for _, attention in castling_attentions(self.model):
            attention.ramp = masks['ramp']
        self.model.cfg = cfg
        self.model.to(device)
        self.model.eval()
        self.pipeline = Compose([dict(type='mmdet.LoadImageFromNDArray'), *_after_loading(cfg)])

    @torch.no_grad()
    def __call__(self, images: Sequence[ndarray]) -> list[dict[str, ndarray]]:
        """Detect, segment or classify.

        Images that leave the test pipeline with the same size go through the model together; those
        of other sizes apart from them, as batches are padded to their largest image, which models
        see.

        Args:
            images (Sequence[ndarray]): Each ``(H, W, 3)``, uint8, RGB.

        Returns:
            list[dict[str, ndarray]]: Of each image what :class:`Result` has of it, by the same
            names, the boxes of any score.
        """
        packed = [self.pipeline(dict(img=image[..., ::-1].copy(), img_id=0)) for image in images]
        alike = defaultdict(list)
        for place, each in enumerate(packed):
            # mmseg warns where the images of a batch had different sizes before the pipeline.
            before = each['data_samples'].ori_shape if self._is_segmentor else None
            alike[each['inputs'].shape, before].append(place)
        found = {}
        for places in alike.values():
            batch = {key: [packed[place][key] for place in places] for key in packed[0]}
            samples = self.model.test_step(batch)
            found |= zip(places, (_arrays(sample.cpu()) for sample in samples), strict=True)
        return [found[place] for place in range(len(images))]

    @property
    def _is_segmentor(self) -> bool:
        return task_of(self.model.cfg) == 'segmentation'


def _after_loading(cfg: Config) -> list[dict]:
    pipeline = get_test_pipeline_cfg(cfg)
    loading = [step for step in pipeline if type_name(step).startswith('Load')]
    for step in loading:
        is_other = step.get('color_type', 'color') != 'color'
        is_other |= step.get('imdecode_backend') not in (None, 'cv2')
        if type_name(step) in ('LoadImageFromFile', 'LoadReadableImage') and is_other:
            raise InputError(
                f'{cfg.filename}: predictions and exported files load images in colour, upright, '
                f'as OpenCV does, but the test has {step}: save the images so, and leave these '
                'arguments out'
            )
    return [step for step in pipeline if step not in loading]


def _arrays(sample: BaseDataElement) -> dict[str, ndarray]:
    if 'pred_sem_seg' in sample:
        return dict(label_map=sample.pred_sem_seg.data[0].numpy().astype(np.int64))
    if 'pred_score' in sample:
        return dict(probabilities=sample.pred_score.numpy())
    found = sample.pred_instances
    arrays = dict(
        boxes=found.bboxes.numpy(), scores=found.scores.numpy(), labels=found.labels.numpy()
    )
    return arrays | (dict(masks=np.asarray(found.masks)) if 'masks' in found else {})
