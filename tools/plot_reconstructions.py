"""Draw what MAE paints: ``tools/plot_reconstructions.py CONFIG CHECKPOINT IMAGE... --out FILE``.

A row for each image: itself, its visible patches, the reconstruction.
"""

import argparse
from pathlib import Path

from castling_det.engine.cli import add_config_arguments, errors_in_one_sentence, load_config
from castling_det.output_files import atomic_write, require_place
from castling_det.visualization.reconstructions import plot_reconstructions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a training with that config')
    parser.add_argument('images', type=Path, nargs='+', help='image files')
    parser.add_argument('--out', type=Path, required=True, help='PNG file')
    parser.add_argument('--seed', type=int, default=0, help='of the choice of the patches')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        require_place(args.out, '--out')
        cfg = load_config(args.config, args.cfg_options)
        figure = plot_reconstructions(cfg, args.checkpoint, args.images, args.seed)
        with atomic_write(args.out) as unfinished:
            figure.savefig(unfinished, format='png', dpi=150)
    print(f'Picture: {args.out}')


if __name__ == '__main__':
    main()
