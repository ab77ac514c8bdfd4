"""Draw what a model sees in an image, in all images of a folder, or in a video.

python tools/image_demo.py photos --config CONFIG --checkpoint CHECKPOINT --out-dir drawn

An .onnx file, as tools/export_onnx.py writes it, serves in place of both:

python tools/image_demo.py photos --checkpoint model.onnx --out-dir drawn

Pictures keep their path below the folder, a video its name; beside them the predictions of a
detector or classifier stand in predictions.json (while it works one a line in
predictions.unfinished.jsonl), a segmentor's label maps in label_maps/.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.utils import track_iter_progress

from castling_det.engine.cli import errors_in_one_sentence, load_config
from castling_det.inference.frames import ImageFiles, open_frames
from castling_det.inference.pictures import draw_predictions
from castling_det.inference.predictor import Predictor, TrainedModel


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='image, folder of images, or video')
    parser.add_argument('--config', help='config file; an .onnx file needs none')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file, or .onnx file')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for what is drawn')
    parser.add_argument('--score-thr', type=float, default=0.3, help='of boxes, least; 0 to 1')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override: key=value ...'
    )
    args = parser.parse_args()
    for_checkpoints = [args.config, args.cfg_options, args.device != 'cpu']
    if is_onnx(args.checkpoint) and any(for_checkpoints):
        parser.error('an .onnx file takes no --config, no --cfg-options, and runs on the CPU')
    if not is_onnx(args.checkpoint) and args.config is None:
        parser.error('a checkpoint needs the --config that it was trained with')
    return args


def is_onnx(file: str) -> bool:
    return Path(file).suffix == '.onnx'


def open_predictor(args: argparse.Namespace) -> Predictor:
    if not is_onnx(args.checkpoint):
        return TrainedModel(
            load_config(args.config, args.cfg_options), args.checkpoint, args.device
        )
    try:
        from castling_det.inference.onnx_predictor import OnnxPredictor
    except ImportError as error:
        raise SystemExit(f"error: {error}; pip install 'castling_det[export]'") from error
    return OnnxPredictor(args.checkpoint)


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        frames = open_frames(args.source, args.out_dir)
        num_drawn, num_boxes = draw_predictions(
            *(frames, open_predictor(args), args.out_dir, args.score_thr),
            track=lambda frames: track_iter_progress((frames, len(frames)), file=sys.stderr),
        )
    line = f'drawn: {num_drawn} of {len(frames)}'
    if num_boxes is not None:
        line += f', boxes: {num_boxes}'
    if isinstance(frames, ImageFiles) and frames.unreadable:
        reasons = '; '.join(f'{file}: {why}' for file, why in frames.unreadable.items())
        line += f', left out: {len(frames.unreadable)} ({reasons})'
    print(f'{line}; see {args.out_dir}')


if __name__ == '__main__':
    main()
