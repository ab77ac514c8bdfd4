"""One run of the study's flowers: ``python docs/studies/castle-your-vit/flowers.py ARM --seed N``.

A trained ViT-S/14 of timm learns five kinds of flowers in a plain loop, as docs/castle-your-vit.md
shows it. The 900 photos of ``cls/flowers5`` are divided anew by each seed, 675 to learn and 225 to
test; arms of one seed have the same photos and the same order. The classifier starts from ridge
regression on the arm's own features, which is the probe. Data and weights are found by
CASTLING_DET_DATA and CASTLING_DET_WEIGHTS; the result is a json file beside this script.
"""

import argparse
import copy
import json
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

import castling_det
from castling_det.provenance import cpu_name, source_commit

NAME, SIZE, CLASSES = 'vit_small_patch14_dinov2', 224, 5
ITERATIONS, BATCH, WARM_UP, WEIGHT_DECAY = 240, 8, 20, 0.05
HEAD_LR, NEW_LR = 1e-3, 10  # the second is relative to that of trained weights
RIDGE, HEAD_SCALE = 100.0, 5.0
DISTILLATION = 150  # batches
ARMS = {
    'softmax': None,
    'published form': dict(type='CastlingAttention', aux=None),
    'castled as published': dict(type='CastlingAttention'),
    'focal': dict(type='FocalAttention'),
    'focal distilled': dict(type='FocalAttention'),
}
Photos = list[tuple[Image.Image, int]]

normalised = v2.Compose(
    [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)
augmented = v2.Compose([v2.RandomResizedCrop(SIZE, scale=(0.3, 1.0)), v2.RandomHorizontalFlip()])
centred = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE)])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('arm', choices=ARMS)
    parser.add_argument('--seed', type=int, required=True)
    parser.add_argument('--lr', type=float, default=2e-5, help='of trained weights')
    parser.add_argument('--softmax-blocks', type=int, default=0, help='last blocks that keep it')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results')
    return parser.parse_args()


def divided(seed: int) -> tuple[Photos, Photos]:
    """Photos to learn and to test, a quarter of each class."""
    generator = torch.Generator().manual_seed(seed)
    root = Path(os.environ['CASTLING_DET_DATA']) / 'cls' / 'flowers5'
    learnt, tested = [], []
    for label, name in enumerate(sorted({path.parent.name for path in root.glob('*/*/*.jpg')})):
        files = sorted(root.glob(f'*/{name}/*.jpg'))
        order = torch.randperm(len(files), generator=generator).tolist()
        photos = [(Image.open(files[index]).convert('RGB'), label) for index in order]
        tested += photos[: len(photos) // 4]
        learnt += photos[len(photos) // 4 :]
    return learnt, tested


class Batches:
    """Augmented photos in a new order each time, without the last incomplete batch."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.photos))
        for indices in order[: len(order) // BATCH * BATCH].view(-1, BATCH).tolist():
            photos, labels = zip(*(self.photos[index] for index in indices), strict=True)
            yield torch.stack([normalised(augmented(p)) for p in photos]), torch.tensor(labels)


def trained_vit() -> nn.Module:
    """timm's model with the trained weights, whose file has transformers' keys."""
    model = timm.create_model(NAME, num_classes=CLASSES, img_size=SIZE, dynamic_img_size=True)
    castling_det.load_vit(model, Path(os.environ['CASTLING_DET_WEIGHTS']) / 'vit_s14.safetensors')
    return model


@torch.no_grad()
def features(model: nn.Module, photos: Photos) -> tuple[Tensor, Tensor]:
    """What the head sees, ``(N, C)``, and the labels."""
    model.eval()
    found = []
    for begin in range(0, len(photos), 25):
        images = [normalised(centred(photo)) for photo, _ in photos[begin : begin + 25]]
        with torch.autocast('cpu', torch.bfloat16):
            tokens = model.forward_features(torch.stack(images))
        found.append(model.forward_head(tokens.float(), pre_logits=True))
    return torch.cat(found), torch.tensor([label for _, label in photos])


def probe(model: nn.Module, photos: Photos) -> None:
    """Set the head by ridge regression on standardised features."""
    x, labels = features(model, photos)
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / deviation
    y = F.one_hot(labels, CLASSES).float()
    weight = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    weight = HEAD_SCALE * (weight / deviation[:, None]).T
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(HEAD_SCALE * y.mean(0) - weight @ mean)


def accuracy(model: nn.Module, photos: Photos) -> float:
    x, labels = features(model, photos)
    return (model.head(x).argmax(dim=1) == labels).float().mean().item()


def fine_tune(model: nn.Module, photos: Photos, trained: set[str], lr: float) -> None:
    """With labels; an auxiliary branch has vanished after 0.9 of the iterations."""
    rates = {'head.': HEAD_LR, '': lr * NEW_LR}
    groups = []
    for name, parameter in model.named_parameters():
        rate = rates['head.'] if name.startswith('head.') else rates['']
        if name in trained and not name.startswith('head.'):
            rate = lr
        groups.append(dict(params=[parameter], lr=rate))
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1, (i + 1) / WARM_UP) * (1 + math.cos(math.pi * i / ITERATIONS)) / 2,
    )
    ramp = castling_det.Ramp(model, total=ITERATIONS)
    batches = (batch for _ in range(ITERATIONS) for batch in Batches(photos))
    model.train()
    for iteration, (images, labels) in zip(range(ITERATIONS), batches, strict=False):
        ramp.step(iteration)
        optimizer.zero_grad()
        with torch.autocast('cpu', torch.bfloat16):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    args = parse_args()
    learnt, tested = divided(args.seed)
    model = trained_vit()
    original, trained = copy.deepcopy(model), {name for name, _ in model.named_parameters()}
    torch.manual_seed(args.seed)
    if ARMS[args.arm] is not None:
        linear = range(len(model.blocks) - args.softmax_blocks)
        castling_det.castlify(model, ARMS[args.arm], linear)
    errors = None
    if args.arm == 'focal distilled':
        with torch.autocast('cpu', torch.bfloat16):
            errors = castling_det.distill(model, original, Batches(learnt), DISTILLATION)
    probe(model, learnt)
    probed = accuracy(model, tested)
    torch.manual_seed(args.seed)
    fine_tune(model, learnt, trained, args.lr)
    result = dict(
        arm=args.arm,
        seed=args.seed,
        lr=args.lr,
        softmax_blocks=args.softmax_blocks,
        probe=round(probed, 4),
        accuracy=round(accuracy(model, tested), 4),
        errors=errors and [round(errors[0], 4), round(sum(errors[-20:]) / 20, 4)],
        cpu_seconds=round(resource.getrusage(resource.RUSAGE_SELF).ru_utime),
        commit=source_commit(),
        hardware=cpu_name(),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    mixed = f'_softmax{args.softmax_blocks}' if args.softmax_blocks else ''
    name = f'{args.arm.replace(" ", "-")}{mixed}_lr{args.lr:g}_seed{args.seed}'
    file = args.out / f'flowers_{name}.json'
    file.write_text(json.dumps(result, indent=1) + '\n')
    print(json.dumps(result))


if __name__ == '__main__':
    main()
