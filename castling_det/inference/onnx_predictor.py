"""An exported ONNX file as what ``tools/image_demo.py`` draws with. Needs mmdet, onnxruntime."""

from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from numpy import ndarray

from castling_det.inference.onnx_detector import OnnxDetector
from castling_det.inference.predictors import Predictor


class OnnxPredictor(Predictor):
    """A detector in an ONNX file, on the CPU.

    Args:
        model (str | Path): File written by ``tools/export_onnx.py``.

    Raises:
        FileNotFoundError, ValueError: As :class:`OnnxDetector`.
    """

    def __init__(self, model: str | Path) -> None:
        self.detector = OnnxDetector(model)
        self.dataset_meta = dict(
            classes=tuple(self.detector.classes), palette=self.detector.palette
        )

    def __call__(self, image: ndarray) -> DetDataSample:
        boxes, scores, labels = map(torch.from_numpy, self.detector(image[..., ::-1]))
        instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        return DetDataSample(pred_instances=instances)
