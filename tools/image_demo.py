"""Draw what a model sees in an image, in all images of a folder, or in a video.

python tools/image_demo.py photos --checkpoint CHECKPOINT --out-dir drawn

The checkpoint is one of a training, which holds its config, or an .onnx file, as
tools/export_onnx.py writes it. With --config it may be any.

Pictures keep their path below the folder, a video its name. Beside them stands predictions.json
(while it works one image a line in predictions.unfinished.jsonl), and label maps of a segmentor in
label_maps/.
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from castling_det import Predictor
from castling_det.engine.cli import errors_in_one_sentence, load_config
from castling_det.inference.frames import ImageFiles, open_frames
from castling_det.inference.pictures import draw_predictions
from castling_det.output_files import require_writable


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='image, folder of images, or video')
    parser.add_argument('--config', help="config file; default: the checkpoint's")
    parser.add_argument('--checkpoint', required=True, help='checkpoint file, or .onnx file')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for what is drawn')
    parser.add_argument('--score-thr', type=float, default=0.3, help='of boxes, least; 0 to 1')
    parser.add_argument('--batch-size', type=int, default=1, help='images computed together')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ...')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override: key=value ...'
    )
    args = parser.parse_args()
    if args.cfg_options and args.config is None:
        parser.error('--cfg-options are for the --config')
    return args


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        frames = open_frames(args.source, args.out_dir)
        require_writable(args.out_dir, '--out-dir')
        files = [args.checkpoint]
        if args.config is not None:
            files.insert(0, load_config(args.config, args.cfg_options))
        predict = Predictor(*files, device=args.device)
        results = predict(frames, args.batch_size, args.score_thr, progress=True)
        drawn = draw_predictions(results, frames, args.out_dir)
    line = f'drawn: {drawn.num_images} of {len(frames)}'
    if drawn.num_boxes is not None:
        line += f', boxes: {drawn.num_boxes}'
    if drawn.num_boxes == 0:
        best = 'none' if drawn.best_score is None else f'{drawn.best_score:.3f}'
        line += f' (best score: {best}, --score-thr: {args.score_thr})'
    if isinstance(frames, ImageFiles) and frames.unreadable:
        reasons = '; '.join(f'{file}: {why}' for file, why in frames.unreadable.items())
        line += f', left out: {len(frames.unreadable)} ({reasons})'
    print(f'{line}; see {args.out_dir}')


if __name__ == '__main__':
    main()
