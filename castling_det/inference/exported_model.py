"""An exported ONNX file as a function of images. Needs onnxruntime, numpy and Pillow."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from numpy import ndarray

from castling_det.errors import InputError
from castling_det.inference.run_onnx import OnnxClassifier, OnnxSegmentor, open_model


class ExportedModel:
    """A model in an ONNX file, on the CPU, one image after the other.

    Args:
        file (str | Path): Written by ``tools/export_onnx.py``.

    Attributes:
        classes (tuple[str, ...]): Names, in the order of the labels.
        palette (list[tuple]): A colour (R, G, B) for each of them.

    Raises:
        InputError: Where :func:`open_model` raises, or if onnxruntime is not installed.
    """

    def __init__(self, file: str | Path) -> None:
        if find_spec('onnxruntime') is None:
            raise InputError(f"{file} needs onnxruntime: pip install 'castling_det[export]'")
        try:
            self.model = open_model(file)
        except (OSError, ValueError) as error:
            raise InputError(str(error)) from error
        self.classes, self.palette = tuple(self.model.classes), self.model.palette

    def __call__(self, images: Sequence[ndarray]) -> list[dict[str, ndarray]]:
        """As :meth:`TrainedModel.__call__`."""
        return [self._arrays(image) for image in images]

    def _arrays(self, image: ndarray) -> dict[str, ndarray]:
        found = self.model(image)
        if isinstance(self.model, OnnxSegmentor):
            return dict(label_map=found)
        if isinstance(self.model, OnnxClassifier):
            return dict(probabilities=found)
        return found._asdict()
