"""Draw how the masks of a training vanish: ``python tools/plot_masks.py WORK_DIR --out DIR``.

nonzeros.png has the trajectories of every layer, masks.png the masks of the last checkpoint over an
image, for the query marked by a cross.
"""

import argparse
from pathlib import Path

from castling_det.analysis.mask_plots import (
    example_image,
    load_run,
    plot_masks,
    plot_nonzeros,
    read_nonzeros,
)
from castling_det.checkpoint import refuse_unsafe_checkpoints
from castling_det.engine.cli import errors_in_one_sentence
from castling_det.output_files import atomic_write


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='what tools/train.py left')
    parser.add_argument('--out', type=Path, required=True, help='folder of the pictures')
    parser.add_argument('--image', type=Path, help='default: the first validation image')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of --image; default: the test pipeline',
    )
    parser.add_argument(
        '--ramps', type=float, nargs='+', default=[0.0, 0.05, 0.2], help='columns of masks.png'
    )
    parser.add_argument(
        '--place',
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=('DOWN', 'ACROSS'),
        help='of the query, in shares of the image',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        refuse_unsafe_checkpoints()
        pictures = {'nonzeros.png': plot_nonzeros(read_nonzeros(args.work_dir))}
        cfg, model = load_run(args.work_dir)
        image = example_image(cfg, args.image, args.shape)
        pictures['masks.png'] = plot_masks(model, image, args.ramps, tuple(args.place))
        for name, figure in pictures.items():
            with atomic_write(args.out / name) as unfinished:
                figure.savefig(unfinished, format='png', dpi=150)
            print(f'Picture: {args.out / name}')


if __name__ == '__main__':
    main()
