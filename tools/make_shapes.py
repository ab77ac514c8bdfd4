"""Make the demo data set.

python tools/make_shapes.py data/shapes --num-train 1600 --num-val 200
"""

import argparse
from pathlib import Path

from castling_det.datasets.shapes import SPLITS, count_instances, write_shapes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make the demo data set, unless it is there already'
    )
    parser.add_argument('root', type=Path, help='target folder')
    parser.add_argument('--num-train', type=int, default=1600, help='number of training images')
    parser.add_argument('--num-val', type=int, default=200, help='number of validation images')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(64, 512), metavar=('H', 'W'), help='in pixels'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace an existing data set')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        is_new = write_shapes(**vars(args))
    except (FileExistsError, ValueError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        reason = f'{args.root} cannot be written ({error.strerror}): give another folder'
        raise SystemExit(reason) from error
    print(f'{"wrote" if is_new else "kept"} {args.root}')
    for split in SPLITS:
        ann_file = args.root / 'annotations' / f'{split}.json'
        counts = count_instances(ann_file)
        print(f'{ann_file}: ' + ', '.join(f'{count} {name}' for name, count in counts.items()))


if __name__ == '__main__':
    main()
