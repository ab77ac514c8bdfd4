"""Write a config for a folder of your own images, and say what comes next.

The folder has boxes (COCO json, YOLO txt or Pascal VOC xml), label maps beside images, or a folder
of images for each class. A part of the images validates where there is no val split.

python tools/new_config.py DATA --model levit-128s --size 416 --epochs 50 --out my_config.py
"""

import argparse
import math
import os
import shlex
from pathlib import Path

from castling_det.datasets.own_data import OwnData, find_own_data
from castling_det.engine.cli import errors_in_one_sentence, load_config
from castling_det.engine.new_config import (
    MODELS,
    SIDES,
    WEIGHTS_VARIABLE,
    config_text,
    find_weights,
    input_size,
    starts_trained,
)
from castling_det.errors import InputError
from castling_det.output_files import atomic_write

# What is known of trainings from random weights.
FROM_RANDOM = dict(
    detection='205 images of blood cells were enough, photos of everyday things take thousands',
    segmentation='367 images of streets gave a mIoU of 36, from trained weights 62',
    classification='photos of everyday things take thousands',
)

# Iterations that small data sets took here; those of a detector from trained weights are a guess.
ENOUGH_TRAINED = dict(detection=1000, segmentation=400, classification=240)
ENOUGH_RANDOM = dict(detection=1000, segmentation=1500, classification=1300)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('data', type=Path, help='folder of the data set')
    parser.add_argument(
        '--model', choices=MODELS, default='levit-128s', help='default: %(default)s'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='side of the images that the model sees, or height and width; default: near '
        + ', '.join(f'{side} for {task}' for task, side in SIDES.items()),
    )
    parser.add_argument('--epochs', type=int, default=50, help='default: %(default)s')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='of boxes those to learn; of label maps the names of the numbers from 0; default: '
        'what the files say',
    )
    parser.add_argument(
        '--out', type=Path, default=Path('my_config.py'), help='default: %(default)s'
    )
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error('--epochs is at least 1')
    return args


def report(data: OwnData, name: str, weights: Path | None) -> str:
    """What the folder holds and what the training starts from."""
    counts = ', '.join(f'{part.num_images} {split}' for split, part in data.splits.items())
    shown = ', '.join(data.classes[:10]) + (', ...' if data.classes[10:] else '')
    lines = [f'{data.root}: {data.task}, {len(data.classes)} classes ({shown}); images: {counts}']
    lines += data.notes
    if weights is not None:
        lines.append(f'The training starts from {weights}')
    elif starts_trained(name, weights):
        folder = os.environ.get(WEIGHTS_VARIABLE)
        lines.append(
            'The training starts from weights that timm downloads'
            + (f': no file in {folder} has {MODELS[name].timm_name} in its name' if folder else '')
        )
    else:
        lines.append(
            f'The training starts from random weights, and has {data.splits["train"].num_images} '
            f'images: {FROM_RANDOM[data.task]}; --model vit-s-dinov2 starts from trained ones'
        )
    return '\n'.join(lines)


def length(data: OwnData, config: Path, epochs: int, trained: bool) -> str:
    """How long the training is, and whether that is short."""
    batch = load_config(config).train_dataloader.batch_size
    an_epoch = math.ceil(data.splits['train'].num_images / batch)
    enough = (ENOUGH_TRAINED if trained else ENOUGH_RANDOM)[data.task]
    told = f'{epochs} epochs: up to {an_epoch * epochs} iterations of {batch} images'
    if an_epoch * epochs < enough:
        told += f'\nThat is short: {enough} iterations are usual. For as many, change epochs to '
        told += f'{math.ceil(enough / an_epoch)} in {config}'
    return told


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        if args.out.exists():
            raise InputError(
                f'{args.out} is there already: change `size, epochs` in it, or give another --out'
            )
        data = find_own_data(args.data, args.classes)
        size = input_size(args.model, data.task, args.size)
        weights = find_weights(args.model)
        text = config_text(data, args.model, size, args.epochs, weights)
        found = report(data, args.model, weights)
        with atomic_write(args.out) as unfinished:
            unfinished.write_text(text, encoding='utf-8')
        told = length(data, args.out, args.epochs, starts_trained(args.model, weights))
    print(found)
    config, work_dir = (shlex.quote(str(path)) for path in (args.out, f'work_dirs/{args.out.stem}'))
    print(
        f'Config: {args.out}, {size[0]}x{size[1]} px, {told}\n'
        'Next:\n'
        f'    castling-det check {config}\n'
        f'    castling-det train {config}\n'
        f'    castling-det test {config} {work_dir}/best_*.pth --show-dir compared'
    )


if __name__ == '__main__':
    main()
