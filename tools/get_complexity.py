"""Count parameters and MACs, whole and by part: ``python tools/get_complexity.py CONFIG...``.

One image, without decoding and NMS; no data set and no checkpoint is needed.
"""

import argparse
import json
import sys
from contextlib import redirect_stdout
from itertools import chain

from mmengine.config import DictAction

from castling_det.analysis.complexity import Complexity, count_forms
from castling_det.configs import input_shape
from castling_det.engine.cli import errors_in_one_sentence, load_config

Forms = dict[str, Complexity]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='config', help='config files')
    parser.add_argument(
        '--shape', type=int, nargs=2, metavar=('H', 'W'), help='input; default: the test pipeline'
    )
    parser.add_argument('--depth', type=int, default=1, help='levels of modules to list')
    parser.add_argument('--format', choices=['text', 'markdown', 'json'], default='text')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override: key=value ...'
    )
    return parser.parse_args()


def by_part(complexity: Complexity, depth: int) -> Forms:
    return {'whole': complexity} | complexity.by_part(depth)


def table(forms: Forms, depth: int) -> list[list[str]]:
    """Header and rows: a part, then params and MACs in each form ('' where it has no such part)."""
    columns = [by_part(complexity, depth) for complexity in forms.values()]
    rows = [['part', *chain(*([f'{form}: params M', 'MACs M'] for form in forms))]]
    for part in dict.fromkeys(chain(*columns)):
        counts = (column.get(part) for column in columns)
        cells = (
            (f'{count.params / 1e6:.3f}', f'{count.macs / 1e6:.1f}') if count else ('', '')
            for count in counts
        )
        rows.append([part, *chain(*cells)])
    return rows


def as_text(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    rows = [rows[0], ['---', *['---:'] * (len(rows[0]) - 1)], *rows[1:]]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def as_json(counted: dict[str, tuple[tuple[int, int], Forms]], depth: int) -> str:
    def numbers(complexity: Complexity) -> dict:
        parts = by_part(complexity, depth).items()
        return {part: dict(params=count.params, macs=count.macs) for part, count in parts}

    content = {
        config: dict(shape=shape, **{form: numbers(count) for form, count in forms.items()})
        for config, (shape, forms) in counted.items()
    }
    return json.dumps(content, indent=2)


def main() -> None:
    args = parse_args()
    counted = {}
    # Logs go to stdout in mmengine; here it is for the numbers alone.
    with errors_in_one_sentence(), redirect_stdout(sys.stderr):
        for config in args.configs:
            cfg = load_config(config, args.cfg_options)
            shape = tuple(args.shape or input_shape(cfg))
            counted[config] = shape, count_forms(cfg, shape)
    if args.format == 'json':
        print(as_json(counted, args.depth))
        return
    draw = as_markdown if args.format == 'markdown' else as_text
    for config, (shape, forms) in counted.items():
        print(f'{config}, input {shape[0]}x{shape[1]}\n')
        print(draw(table(forms, args.depth)), end='\n\n')


if __name__ == '__main__':
    main()
