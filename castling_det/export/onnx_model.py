"""What all ONNX files of ours share: the opset, a session to try them, how they are written."""

from pathlib import Path

try:
    import onnx
    import onnx.inliner
    import onnxruntime
    import onnxscript  # noqa: F401  torch.onnx.export needs it
except ImportError as error:
    raise ImportError(
        f"{error}; ONNX needs an extra: pip install 'castling_det[export]'"
    ) from error

import castling_det
from castling_det.output_files import atomic_write

OPSET = 18


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """What runs the model on a CPU, before there is a file."""
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )


def write(model: onnx.ModelProto, out: Path) -> None:
    """Check the model against the standard, and write it whole or not at all."""
    model.producer_name, model.producer_version = 'castling_det', castling_det.__version__
    onnx.checker.check_model(model, full_check=True)
    with atomic_write(out) as unfinished:
        onnx.save(model, unfinished)
