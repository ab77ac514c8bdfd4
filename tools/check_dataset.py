"""Check the data sets of a config, every image decoded: ``python tools/check_dataset.py CONFIG``.

Prints one report with counts; the exit status is 1 if there is an error in it.
"""

import argparse

from castling_det.datasets.checks import SPLITS, report_datasets
from castling_det.engine.cli import add_config_arguments, errors_in_one_sentence, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--splits', nargs='+', choices=SPLITS, default=SPLITS, help='default: all of them'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        cfg = load_config(args.config, args.cfg_options)
        reports = report_datasets(cfg, args.splits, decode=True)
    for report in reports:
        print(report)
    num_errors = sum(len(report.errors) for report in reports)
    num_warnings = sum(len(report.warnings) for report in reports)
    print(f'{len(reports)} data sets, {num_errors} errors, {num_warnings} warnings')
    raise SystemExit(1 if num_errors else 0)


if __name__ == '__main__':
    main()
