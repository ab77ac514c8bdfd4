"""Draw what a detector sees in an image, in the images of a folder, or in a video.

python tools/image_demo.py photos --config CONFIG --checkpoint CHECKPOINT --out-dir drawn

Pictures (or the video) keep their names; all predictions stand beside them in predictions.json.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.utils import track_iter_progress

import castling_det  # noqa: F401  makes `castling_det::` configs known before a config is read
from castling_det.inference.frames import ImageFiles, open_frames
from castling_det.inference.pictures import draw_predictions
from castling_det.inference.predictors import Detector
from castling_det.running.cli import errors_in_one_sentence, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='image, folder of images, or video')
    parser.add_argument('--config', required=True, help='config file')
    parser.add_argument('--checkpoint', required=True, help='checkpoint file')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for what is drawn')
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score, 0 to 1')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override: key=value ...'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        frames = open_frames(args.source)
        cfg = load_config(args.config, args.cfg_options)
        detector = Detector(cfg, args.checkpoint, args.device)
        num_drawn, num_boxes = draw_predictions(
            *(frames, detector, args.out_dir, args.score_thr),
            track=lambda frames: track_iter_progress((frames, len(frames)), file=sys.stderr),
        )
    line = f'drawn: {num_drawn} of {len(frames)}, boxes: {num_boxes}'
    if isinstance(frames, ImageFiles) and frames.unreadable:
        names = ', '.join(file.name for file in frames.unreadable)
        line += f', unreadable: {len(frames.unreadable)} ({names})'
    print(f'{line}; see {args.out_dir}')


if __name__ == '__main__':
    main()
