"""Write a trained model as an ONNX file, castled and with its batch norms folded.

python tools/export_onnx.py CONFIG CHECKPOINT --out model.onnx

Beside it stands run_onnx.py, which runs it without torch: see docs/shipping.md.
"""

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from castling_det.engine.cli import add_config_arguments, errors_in_one_sentence, load_config
from castling_det.errors import InputError
from castling_det.export.graph import DECODES
from castling_det.output_files import require_place

if TYPE_CHECKING:
    from castling_det.export.agreement import Agreement


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', type=Path, required=True, help='file to write')
    parser.add_argument(
        '--decode',
        choices=sorted({decode for decodes in DECODES.values() for decode in decodes}),
        help="the head's maps, raw; of a detector the boxes and scores of all cells (default), or "
        'what NMS leaves of them; of a segmentor the labels (default, but in sliding windows), of '
        'a classifier the scores (default)',
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument('--half', action='store_true', help='float16 weights and activations')
    precision.add_argument(
        '--int8', action='store_true', help='int8 convolutions and linear layers, ONNX alone'
    )
    parser.add_argument(
        '--calibrate',
        type=int,
        default=128,
        metavar='N',
        help='training images that the ranges of --int8 come from; default: %(default)s',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='size of the image that the graph gets; default: that of the test pipeline',
    )
    parser.add_argument(
        '--format', choices=['onnx', 'torch'], default='onnx', help='torch: of torch.export, .pt2'
    )
    args = parser.parse_args()
    if args.int8 and args.format == 'torch':
        parser.error('--int8 makes an ONNX file: leave out --format torch')
    if args.calibrate < 1:
        parser.error('--calibrate is at least 1')
    args.precision = 'fp16' if args.half else 'int8' if args.int8 else 'fp32'
    return args


def export(args: argparse.Namespace) -> 'Agreement':
    """Write the file. The libraries that it takes are read late: they speak, and may be missing."""
    require_place(args.out, '--out')
    cfg = load_config(args.config, args.cfg_options)
    print(f'Reading {args.checkpoint}', flush=True)
    if args.format == 'torch':
        from castling_det.export.program import export_program as write
    else:
        try:
            from castling_det.export.onnx_file import export_onnx
        except ImportError as error:
            raise InputError(str(error)) from error
        write = partial(export_onnx, calibrate=args.calibrate)
    from castling_det.inference.trained_model import TrainedModel

    model = TrainedModel(cfg, args.checkpoint)
    return write(model, args.out, args.decode, args.precision, args.shape)


def main() -> None:
    args = parse_args()
    # They warn of torchvision, which nothing here is exported of, and of what they leave as it is.
    for name in ('torch.onnx', 'onnxscript'):
        logging.getLogger(name).setLevel(logging.ERROR)
    with errors_in_one_sentence():
        agreement = export(args)
    print(f'File: {args.out}, {args.out.stat().st_size / 2**20:.1f} MiB')
    images = 'training images' if args.int8 else 'noise'
    print(f'Held against the checkpoint in float64, on {images}: {agreement}')
    if args.format == 'onnx' and args.decode != 'raw':
        runtime = args.out.with_name('run_onnx.py')
        print(f'Run it: python {runtime} {args.out} photo.jpg --out picture.png')


if __name__ == '__main__':
    main()
