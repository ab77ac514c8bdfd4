"""A detector as a program of ``torch.export``, which an ONNX file starts from as well."""

import io
import json
from pathlib import Path

import torch

from castling_det.configs import task_of
from castling_det.errors import InputError
from castling_det.export.agreement import Agreement, blurred_noise, check
from castling_det.export.build import graphs
from castling_det.export.graph import EXAMPLE_SHAPE, OPEN, trace
from castling_det.export.metadata import decode_of, describe
from castling_det.inference.trained_model import TrainedModel
from castling_det.output_files import atomic_write


def export_program(
    detector: TrainedModel,
    out: Path,
    decode: str | None = None,
    precision: str = 'fp32',
    shape: tuple[int, int] | None = None,
) -> Agreement:
    """Write a detector as a program of ``torch.export`` (``.pt2``), for ``torch.export.load``.

    Its extra file ``metadata.json`` holds what an ONNX file has as metadata. It takes images whose
    sides are longer than the coarsest stride, because to ``torch.export`` a map of one row is of
    another kind.

    Args:
        detector (TrainedModel): Trained; it is left as it is.
        out (Path): File to write.
        decode (str, optional): 'raw' or 'boxes', as
            :func:`~castling_det.export.onnx_file.export_onnx` has them. Defaults to 'boxes'.
        precision (str): 'fp32' or 'fp16', as there. Defaults to 'fp32'.
        shape (tuple[int, int], optional): As there.

    Returns:
        Agreement: Of the file with torch.

    Raises:
        InputError: If the detector cannot be exported so, or if the file does not agree with torch;
            nothing is written then.
    """
    if task_of(detector.model.cfg) != 'detection':
        raise InputError('only detectors become programs of torch: leave out --format torch')
    if decode == 'nms':
        raise InputError('NMS has no operator in torch: export a program with raw outputs or boxes')
    decode = decode_of(detector, decode)
    metadata = describe(detector, decode, precision, shape)
    trained, shipped = graphs(detector.model, decode != 'raw', precision == 'fp16')
    if min(metadata['input_size']) <= max(shipped.strides):
        raise InputError(
            f'a program of torch.export takes images whose sides are longer than the coarsest '
            f'stride, {max(shipped.strides)} px: give another size than {metadata["input_size"]} '
            f'as --shape'
        )
    content = io.BytesIO()
    program = trace(shipped, (torch.rand(EXAMPLE_SHAPE) * 255, OPEN))
    torch.export.save(program, content, extra_files={'metadata.json': json.dumps(metadata)})
    content.seek(0)
    run = torch.export.load(content).module()
    agreement = check(run, trained, precision, blurred_noise(metadata['input_size']), out)
    with atomic_write(out) as unfinished:
        unfinished.write_bytes(content.getvalue())
    return agreement
