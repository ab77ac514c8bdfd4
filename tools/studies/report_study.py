"""Fill the tables of a study's page and draw its picture.

python tools/studies/report_study.py PLAN

The page is STUDY.md beside the plan's folder STUDY; the picture is STUDY/runs.png.
"""

import argparse
from pathlib import Path

from study import Study
from study_report import picture, tables
from tables import fill_tables

from castling_det.engine.cli import errors_in_one_sentence
from castling_det.errors import InputError
from castling_det.output_files import atomic_write


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('plan', type=Path, help='plan.py of the study')
    return parser.parse_args()


def main() -> None:
    folder = parse_args().plan.absolute().parent
    page = folder.with_suffix('.md')
    with errors_in_one_sentence():
        study = Study(folder / 'plan.py')
        if not page.is_file():
            raise InputError(f'{page} does not exist: write the page, with the marks of its tables')
        text = fill_tables(page.read_text(), tables(study).__getitem__)
        with atomic_write(page) as part:
            part.write_text(text)
        with atomic_write(folder / 'runs.png') as part:
            picture(study).savefig(part, dpi=110)
    print(f'wrote {page} and {folder / "runs.png"}')


if __name__ == '__main__':
    main()
