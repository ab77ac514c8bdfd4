"""Castle a checkpoint: ``python tools/castle.py CONFIG CHECKPOINT --out DIR``.

Writes NAME-castled-xxxxxxxx.pth, the evaluated weights alone, and the config of the inference form.
"""

import argparse
from pathlib import Path

from castling_det.analysis.complexity import count_forms
from castling_det.configs import input_shape
from castling_det.engine.cli import add_config_arguments, errors_in_one_sentence, load_config
from castling_det.export.castled_checkpoint import castle_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a training with that config')
    parser.add_argument(
        '--out', type=Path, required=True, help='folder; or a file NAME.pth, for another NAME'
    )
    parser.add_argument(
        '--shape', type=int, nargs=2, metavar=('H', 'W'), help='of MACs; default: the test pipeline'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        cfg = load_config(args.config, args.cfg_options)
        shape = tuple(args.shape or input_shape(cfg))
        files = castle_checkpoint(cfg, args.checkpoint, args.out, Path(args.config).stem)
        forms = count_forms(cfg, shape)
    forms.pop('softmax twin', None)
    for form, count in forms.items():
        print(
            f'{form}: {count.params / 1e6:.3f} M parameters, {count.macs / 1e6:.1f} M MACs '
            f'at {shape[0]}x{shape[1]}'
        )
    if files.warning() is not None:
        print(f'warning: {files.warning()}')
    print(f'Checkpoint: {files.checkpoint}\nConfig: {files.config}')


if __name__ == '__main__':
    main()
