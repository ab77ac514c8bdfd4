"""Draw losses, learning rate, nonzeros and mAP of trainings over their iterations, as a PNG.

python tools/plot_log.py work_dirs/NAME work_dirs/ANOTHER --out compared.png
"""

import argparse
from pathlib import Path

from castling_det.analysis.train_log import plot_logs, read_log
from castling_det.engine.cli import errors_in_one_sentence
from castling_det.output_files import atomic_write, require_place


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', nargs='+', type=Path, metavar='run', help='work dir, or its json')
    parser.add_argument('--out', type=Path, required=True, help='PNG file')
    parser.add_argument(
        '--fields',
        nargs='+',
        default=['loss', 'loss_*', 'lr', 'ramp', 'nonzeros', '*mAP', '*mAP_50', '*mIoU'],
        help='what to draw, * standing for any text (default: %(default)s)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        require_place(args.out, '--out')
        logs = {str(run): read_log(run) for run in args.runs}
        figure = plot_logs(logs, args.fields)
        with atomic_write(args.out) as unfinished:
            figure.savefig(unfinished, format='png')
    print(f'runs drawn: {len(logs)}; see {args.out}')


if __name__ == '__main__':
    main()
