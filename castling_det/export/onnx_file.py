"""A trained model as an ONNX file, and beside it the one Python file that runs it."""

import json
import shutil
from pathlib import Path

import torch

from castling_det.export.agreement import Agreement, Run, blurred_noise, check
from castling_det.export.build import graphs
from castling_det.export.detector_graph import DetectorGraph
from castling_det.export.graph import EXAMPLE_SHAPE, Graph
from castling_det.export.metadata import decode_of, describe
from castling_det.export.onnx_model import onnx, session, write
from castling_det.export.onnx_tail import append_tail
from castling_det.export.quantization import calibration_images, quantised
from castling_det.export.recording import record
from castling_det.inference import run_onnx
from castling_det.inference.trained_model import TrainedModel
from castling_det.output_files import atomic_write
from castling_det.progress import under_way

COMPARED = 8  # photos, of those that int8's ranges come from


def export_onnx(
    trained_model: TrainedModel,
    out: Path,
    decode: str | None = None,
    precision: str = 'fp32',
    shape: tuple[int, int] | None = None,
    calibrate: int = 128,
) -> Agreement:
    """Write a model as an ONNX file (opset 18), and beside it ``run_onnx.py``, to run it.

    Args:
        trained_model (TrainedModel): It is left as it is.
        out (Path): File to write.
        decode (str, optional): Of a detector 'raw' maps of the head, 'boxes' and scores of all
            cells (default), or the best after class-wise 'nms' in the graph: ``(B, max_per_img)``,
            unused places with score 0 and label -1. Of a segmentor 'labels' ``(B, H, W)`` (default)
            or 'raw' logits ``(B, classes, H, W)``, both as large as the image; in sliding windows
            logits alone. Of a classifier 'scores' ``(B, classes)`` (default) or 'raw' logits.
        precision (str): 'fp16' has weights and activations in float16; the image, normalisation,
            the norms and sums of linear-angular attention, scores and decoding in float32. 'int8'
            has the inputs and weights of convolutions and linear layers in int8, all else in
            float32. Defaults to 'fp32'.
        shape (tuple[int, int], optional): Height and width that ``run_onnx.py`` resizes images
            to. Defaults to the test pipeline's.
        calibrate (int): Number of training images that the ranges of int8 come from, and some of
            which such a file is compared on. Defaults to 128.

    Returns:
        Agreement: Of the file with torch, before NMS.

    Raises:
        InputError: If the model cannot be exported, or if the file does not agree with torch;
            nothing is written then.
    """
    decode, is_half = decode_of(trained_model, decode), precision == 'fp16'
    trained, shipped = graphs(trained_model.model, decode != 'raw', is_half)
    metadata = describe(trained_model, decode, precision, shape)
    height, width = seen = metadata.get('window') or metadata['input_size']
    images = blurred_noise(seen)
    if precision == 'int8':
        prepare = run_onnx.OnnxModel(None, metadata).pixels
        photos = calibration_images(trained_model, prepare, calibrate)
        if metadata.get('window'):
            photos = (photo[..., :height, :width] for photo in photos)
        photos = list(photos)
        images = [torch.from_numpy(photo) for photo in photos[:COMPARED]]
    has_tail = isinstance(shipped, DetectorGraph) and shipped.decodes
    with under_way('Recording the network as ONNX operators, which takes a minute or two'):
        model = to_onnx(shipped, prefix='all_' if has_tail else '')
    if precision == 'int8':
        with under_way('Finding the ranges of int8'):
            model = quantised(model, photos)
    with under_way('Comparing the file with the checkpoint'):
        agreement = check(_onnxruntime(model), trained, precision, images, out)
    if has_tail:
        metadata |= dict(score_thr=0.0) if shipped.has_factors else {}
        model = append_tail(model, shipped, metadata)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    write(model, out)
    runtime = Path(run_onnx.__file__)
    with atomic_write(out.with_name(runtime.name)) as unfinished:
        shutil.copyfile(runtime, unfinished)
    return agreement


def to_onnx(graph: Graph, prefix: str = '') -> onnx.ModelProto:
    """A graph in standard operators.

    Args:
        graph (Graph): What is shipped.
        prefix (str): Of the outputs' names. Defaults to none.
    """
    names = [f'{prefix}{name}' for name in graph.outputs]
    model = record(graph, torch.rand(EXAMPLE_SHAPE) * 255, names)
    _name_dimensions(model, graph)
    return model


def _name_dimensions(model: onnx.ModelProto, graph: Graph) -> None:
    """Give open dimensions short names in place of formulas."""
    names = [('batch', '', 'height', 'width'), *graph.outputs.values()]
    for value, dimensions in zip((*model.graph.input, *model.graph.output), names, strict=True):
        for dimension, name in zip(value.type.tensor_type.shape.dim, dimensions, strict=False):
            if dimension.dim_param:
                dimension.dim_param = name


def _onnxruntime(model: onnx.ModelProto) -> Run:
    opened = session(model)
    return lambda image: [
        torch.from_numpy(output) for output in opened.run(None, {'image': image.numpy()})
    ]
