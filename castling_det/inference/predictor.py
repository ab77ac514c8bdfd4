"""Predictions for images that no data set knows. Needs mmdet, and the library of the model."""

from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from mmcv.transforms import Compose
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from numpy import ndarray

from castling_det.castling import castling_attentions
from castling_det.checkpoint import load_weights
from castling_det.configs import build_model, refuse_pretraining, type_name
from castling_det.errors import InputError
from castling_det.inference.frames import Frame

NUM_BEST = 5  # of a classifier's classes that a prediction names


class Predictor(Protocol):
    """What finds boxes in an image, the class of each pixel or its own, whatever computes it.

    Attributes:
        dataset_meta (dict): ``classes``, their names in the order of the labels, and ``palette``.
    """

    dataset_meta: dict[str, Any]

    def __call__(self, image: ndarray) -> BaseDataElement:
        """Detect, segment or classify.

        Args:
            image (ndarray): ``(H, W, 3)``, uint8, BGR.

        Returns:
            BaseDataElement: On the CPU. Of a detector a ``DetDataSample`` with ``pred_instances``,
            boxes (x1, y1, x2, y2) in pixels of ``image``; of a segmentor a ``SegDataSample`` with
            ``pred_sem_seg``, ``(1, H, W)``; of a classifier a ``DataSample`` with ``pred_score``,
            ``(classes,)``.
        """


class TrainedModel(Predictor):
    """A trained detector, segmentor or classifier as a function of an image.

    The image goes through the test pipeline, but for the loading of image and annotations. A
    segmentor predicts as a whole or in sliding windows, as ``model.test_cfg`` says.

    mmdet's ``init_detector`` gives a checkpoint without class names those of COCO; here they come
    from the config's test data then. mmseg's ``inference_model`` takes its pipeline from a variable
    of the config file, which a leaf's data loader need not have; here it is the data loader's.

    Args:
        cfg (Config): Whole config of the model, with the test pipeline.
        checkpoint (str | Path): Local file: of a Runner, or a bare state dict.
        device (str): As torch names it. Defaults to 'cpu'.

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
        content = load_weights(self.model, checkpoint)
        dataset = dict(deepcopy(cfg.test_dataloader.dataset), lazy_init=True)
        trained_on = content.get('meta', {}).get('dataset_meta', {})
        self.dataset_meta = DATASETS.build(dataset).metainfo | trained_on
        masks = content.get('meta', {}).get('castling', dict(ramp=0.0))
        for _, attention in castling_attentions(self.model):
            attention.ramp = masks['ramp']
        self.model.cfg = cfg
        self.model.to(device)
        self.model.eval()
        self.pipeline = Compose(
            [dict(type='mmdet.LoadImageFromNDArray'), *_after_loading(get_test_pipeline_cfg(cfg))]
        )

    @torch.no_grad()
    def __call__(self, image: ndarray) -> BaseDataElement:
        packed = self.pipeline(dict(img=image, img_id=0))
        (sample,) = self.model.test_step({key: [value] for key, value in packed.items()})
        return sample.cpu()


def _after_loading(pipeline: list[dict]) -> list[dict]:
    return [step for step in pipeline if not type_name(step).startswith('Load')]


def records(
    frame: Frame, sample: BaseDataElement, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Predictions as json can hold them, one dict a box, or of a classifier one a class.

    Returns:
        list[dict]: ``file``, below the folder of the input (and ``frame``, from 0, of a video), of
        a box ``bbox_xyxy`` in pixels, ``score`` and ``label``, the name of the class. Of a
        classifier they are the best five, the best first.
    """
    place = dict(file=frame.file.as_posix())
    if frame.number is not None:
        place['frame'] = frame.number
    if isinstance(sample, DetDataSample):
        found = sample.pred_instances
        boxes, scores, labels = (found[key].tolist() for key in ('bboxes', 'scores', 'labels'))
        shapes = [dict(bbox_xyxy=[round(side, 2) for side in box]) for box in boxes]
    else:
        best = sample.pred_score.topk(min(NUM_BEST, len(classes)))
        scores, labels = best.values.tolist(), best.indices.tolist()
        shapes = [{} for _ in labels]
    return [
        dict(place, **shape, score=round(score, 4), label=classes[label])
        for shape, score, label in zip(shapes, scores, labels, strict=True)
    ]
