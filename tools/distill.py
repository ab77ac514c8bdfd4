"""Make a trained ViT linear without labels: ``python tools/distill.py CONFIG --out FILE``.

The attention of the config's CastlingTimm learns, on the images of the training split, to give what
the softmax gave in its place. Then train with ``--cfg-options model.backbone.pretrained=FILE``.
"""

import argparse
from pathlib import Path

from castling_det.datasets.checks import check_datasets
from castling_det.engine.cli import add_config_arguments, errors_in_one_sentence, load_config
from castling_det.engine.config_checks import check_parts
from castling_det.engine.distillation import distill_backbone


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('--iterations', type=int, default=300, help='batches; default: 300')
    parser.add_argument('--lr', type=float, default=1e-4, help='of trained weights; default: 1e-4')
    parser.add_argument('--out', type=Path, required=True, help='file of weights to write')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with errors_in_one_sentence():
        cfg = load_config(args.config, args.cfg_options)
        check_parts(cfg, 'model', 'train_dataloader')
        check_datasets(cfg, ('train',))
        losses = distill_backbone(cfg, args.iterations, args.lr, args.out)
    print(
        f'Error of the attention modules: {losses[0]:.4f} in the first batch, '
        f'{losses[-1]:.4f} in the last\nWeights: {args.out}\n'
        f'Train: python tools/train.py {args.config} --cfg-options '
        f'model.backbone.pretrained={args.out}'
    )


if __name__ == '__main__':
    main()
