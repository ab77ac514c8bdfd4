"""Count every config's model, and make the tables of their READMEs anew."""

import argparse
from pathlib import Path

from model_zoo import stale_files

from castling_det.engine.cli import errors_in_one_sentence
from castling_det.output_files import atomic_write

ROOT = Path(__file__).parents[2]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; exit 1 if stale',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        stale = stale_files(ROOT / 'configs', recount=not args.check)
    if args.check and stale:
        names = ', '.join(str(path.relative_to(ROOT)) for path in stale)
        raise SystemExit(f'error: stale tables in {names}: run `make tables`')
    for path, text in stale.items():
        with atomic_write(path) as unfinished:
            unfinished.write_text(text)
        print(f'wrote {path.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
