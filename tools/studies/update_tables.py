"""Make the tables of the configs' READMEs anew, from the configs and their metafiles."""

import argparse
from pathlib import Path

from model_zoo import stale_readmes

from castling_det.checkpoint import atomic_write
from castling_det.engine.cli import errors_in_one_sentence

ROOT = Path(__file__).parents[2]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 if stale')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        stale = stale_readmes(ROOT / 'configs')
    if args.check and stale:
        names = ', '.join(str(readme.relative_to(ROOT)) for readme in stale)
        raise SystemExit(f'error: stale tables in {names}: run `make tables`')
    for readme, text in stale.items():
        with atomic_write(readme) as unfinished:
            unfinished.write_text(text)
        print(f'wrote {readme.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
