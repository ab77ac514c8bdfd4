"""Draw samples of a data set with their truth, as they leave the config's pipeline.

python tools/browse_dataset.py CONFIG --out-dir samples --split train --num 20
"""

import argparse
from pathlib import Path

from castling_det.datasets.browsing import drawn_samples
from castling_det.engine.cli import add_config_arguments, errors_in_one_sentence, load_config
from castling_det.output_files import require_writable
from castling_det.visualization.drawing import write_picture


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for the pictures')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    parser.add_argument('--num', type=int, default=20, help='how many, evenly spread')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    num_drawn = 0
    with errors_in_one_sentence():
        require_writable(args.out_dir, '--out-dir')
        cfg = load_config(args.config, args.cfg_options)
        for name, picture in drawn_samples(cfg, args.split, args.num):
            write_picture(args.out_dir / f'{name}.png', picture)
            num_drawn += 1
    print(f'samples of {args.split} drawn: {num_drawn}; see {args.out_dir}')


if __name__ == '__main__':
    main()
