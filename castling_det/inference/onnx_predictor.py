"""An exported ONNX file as what ``tools/image_demo.py`` draws with. Needs mmdet, onnxruntime."""

from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from numpy import ndarray

from castling_det.errors import InputError
from castling_det.inference.predictor import Predictor
from castling_det.inference.run_onnx import OnnxClassifier, OnnxSegmentor, open_model


class OnnxPredictor(Predictor):
    """A model in an ONNX file, on the CPU.

    Args:
        model (str | Path): File written by ``tools/export_onnx.py``.

    Raises:
        InputError: Where :func:`open_model` raises.
    """

    def __init__(self, model: str | Path) -> None:
        try:
            self.model = open_model(model)
        except (OSError, ValueError) as error:
            raise InputError(str(error)) from error
        self.dataset_meta = dict(classes=tuple(self.model.classes), palette=self.model.palette)

    def __call__(self, image: ndarray) -> BaseDataElement:
        found = self.model(image[..., ::-1])
        if isinstance(self.model, OnnxSegmentor):
            from mmseg.structures import SegDataSample  # detectors need no mmseg

            return SegDataSample(pred_sem_seg=PixelData(data=torch.from_numpy(found)[None]))
        if isinstance(self.model, OnnxClassifier):
            from mmpretrain.structures import DataSample

            return DataSample(pred_score=torch.from_numpy(found))
        boxes, scores, labels = map(torch.from_numpy, found)
        return DetDataSample(
            pred_instances=InstanceData(bboxes=boxes, scores=scores, labels=labels)
        )
