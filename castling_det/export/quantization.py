"""Static quantisation: products of an ONNX file in int8, with ranges seen on training images."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmengine.registry import DATASETS
from numpy import ndarray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from castling_det.datasets.loading import LoadReadableImage
from castling_det.errors import InputError
from castling_det.export.onnx_model import onnx
from castling_det.inference.trained_model import TrainedModel

QUANTISED = ('Conv', 'Gemm', 'MatMul')


class _Images(CalibrationDataReader):
    def __init__(self, images: Iterable[ndarray]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {'image': image}


def quantised(model: onnx.ModelProto, images: Iterable[ndarray]) -> onnx.ModelProto:
    """Convolutions and linear layers in int8, a scale a channel; all else in float32.

    Products of activations with each other, which linear-angular attention sums over all tokens,
    norms, scores and decoding are not touched.

    Args:
        model (onnx.ModelProto): In float32; it is left as it is.
        images (Iterable[ndarray]): What it is called with, each ``(1, 3, H, W)``, float32.

    Returns:
        onnx.ModelProto: With QuantizeLinear and DequantizeLinear, which runtimes fuse.
    """
    model = deepcopy(model)
    add_pre_process_metadata(model)  # it folds and infers shapes, which is not needed here
    with TemporaryDirectory() as folder:
        file = Path(folder) / 'quantised.onnx'
        quantize_static(
            model,
            file,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=_without_weights(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(file)


def _without_weights(model: onnx.ModelProto) -> list[str]:
    """Products whose factors are both computed, or a vector, as that which decodes distances."""
    weights = {each.name for each in model.graph.initializer if len(each.dims) > 1}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in QUANTISED and weights.isdisjoint(node.input)
    ]


def calibration_images(
    trained: TrainedModel, prepare: Callable[[ndarray], ndarray], number: int
) -> Iterator[ndarray]:
    """Training images, spread over the data set, as a file is called with.

    Those that cannot be read are left out, and named in the log, as in training.

    Args:
        trained (TrainedModel): With its whole config.
        prepare (Callable[[ndarray], ndarray]): From RGB values ``(H, W, 3)`` to what a file sees.
        number (int): How many; all if there are fewer.

    Yields:
        ndarray: ``(1, 3, H, W)``, float32, RGB, 0 to 255.

    Raises:
        InputError: If the data set is not there, or if none of the images can be read.
    """
    try:
        dataset = DATASETS.build(trained.model.cfg.train_dataloader.dataset)
        dataset.full_init()
    except (AssertionError, OSError, RuntimeError) as error:  # of mm libraries
        raise _unreadable(error) from error
    places = np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int)
    load, image = LoadReadableImage(on_error='skip'), None
    for place in places:
        loaded = load(dict(img_path=dataset.get_data_info(int(place))['img_path']))
        if loaded is not None:
            image = prepare(loaded['img'][..., ::-1])
            yield image.transpose(2, 0, 1)[None].astype(np.float32)
    if image is None:
        raise _unreadable(f'none of {len(places)} can')


def _unreadable(reason: object) -> InputError:
    return InputError(
        f'--int8 takes images of train_dataloader.dataset, which cannot be read ({reason}): put '
        'the data where the config says, or leave out --int8'
    )
