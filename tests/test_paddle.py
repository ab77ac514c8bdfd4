"""PaddlePaddle's files: PicoDet from one, beside a forward written after PaddleDetection's code."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from castling_det.checkpoint import fit_weights, load_weights, read_checkpoint
from castling_det.detection import LCNet
from castling_det.errors import InputError

CONFIG = 'castling_picodet/picodet-s_lcnet_4xb48-300e_coco-416x416.py'
WIDTH, NUM_CLASSES, REG_MAX = 96, 80, 7  # of -XS: neck and head, classes, bins less one
STAGES = {  # (kernel size, channels at scale 0.35, stride) of each block
    2: [(3, 16, 1)],
    3: [(3, 24, 2), (3, 24, 1)],
    4: [(3, 48, 2), (3, 48, 1)],
    5: [(3, 88, 2)] + 5 * [(5, 88, 1)],
    6: [(5, 176, 2), (5, 176, 1)],
}


def hard_swish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


class PaddlePicoDet:
    """Draws each array when its layer is first called, under the name that it has in Paddle."""

    def __init__(self) -> None:
        self.arrays = {}
        self.random = np.random.default_rng(0)

    def array(self, name: str, shape: tuple[int, ...], mean: float, spread: float) -> Tensor:
        if name not in self.arrays:
            drawn = mean + spread * self.random.uniform(-1, 1, shape)
            self.arrays[name] = drawn.astype(np.float32)
        return torch.from_numpy(self.arrays[name])

    def conv(
        self,
        name: str,
        x: Tensor,
        out: int,
        k: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Tensor:
        shape = (out, x.shape[1] // groups, k, k)
        weight = self.array(f'{name}.weight', shape, 0, (6 / np.prod(shape[1:])) ** 0.5)
        shift = self.array(f'{name}.bias', (out,), 0, 0.5) if bias else None
        return F.conv2d(x, weight, shift, stride, k // 2, groups=groups)

    def norm(self, name: str, x: Tensor) -> Tensor:
        scale, shift, mean, variance = (
            self.array(f'{name}.{part}', (x.shape[1],), centre, 0.5)[:, None, None]
            for part, centre in dict(weight=1, bias=0, _mean=0, _variance=1).items()
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def separable(self, name: str, x: Tensor, out: int, k: int, stride: int, se: bool) -> Tensor:
        """`DepthwiseSeparable` of the backbone, which the neck has too."""
        x = self.conv(f'{name}.dw_conv.conv', x, x.shape[1], k, stride, groups=x.shape[1])
        x = hard_swish(self.norm(f'{name}.dw_conv.bn', x))
        if se:
            pooled = x.mean(dim=(2, 3), keepdim=True)
            pooled = self.conv(f'{name}.se.conv1', pooled, x.shape[1] // 4, bias=True).clamp(min=0)
            pooled = self.conv(f'{name}.se.conv2', pooled, x.shape[1], bias=True)
            x = x * (pooled / 6 + 0.5).clamp(0, 1)
        x = self.conv(f'{name}.pw_conv.conv', x, out)
        return hard_swish(self.norm(f'{name}.pw_conv.bn', x))

    def dp_module(self, name: str, x: Tensor, out: int, stride: int = 1) -> Tensor:
        x = self.conv(f'{name}.dwconv', x, out, 5, stride, groups=out)
        x = hard_swish(self.norm(f'{name}.bn1', x))
        return self.norm(f'{name}.bn2', self.conv(f'{name}.pwconv', x, out))

    def backbone(self, x: Tensor, prefix: str = 'backbone.') -> list[Tensor]:
        x = self.conv(f'{prefix}conv1.conv', x, 8, 3, stride=2)
        x, maps = hard_swish(self.norm(f'{prefix}conv1.bn', x)), []
        for stage, blocks in STAGES.items():
            for number, (k, out, stride) in enumerate(blocks):
                name = f'{prefix}blocks{stage}.{number}'
                x = self.separable(name, x, out, k, stride, se=stage == 6)
            maps.append(x)
        return maps[-3:]

    def join(self, name: str, first: Tensor, second: Tensor) -> Tensor:
        x = self.separable(f'{name}.0', torch.cat([first, second], 1), 2 * WIDTH, 5, 1, se=False)
        return self.separable(f'{name}.1', x, WIDTH, 5, 1, se=False)

    def neck(self, maps: list[Tensor]) -> list[Tensor]:
        for i in range(3):
            x = self.conv(f'neck.conv_t.convs.{i}.conv', maps[i], WIDTH)
            maps[i] = hard_swish(self.norm(f'neck.conv_t.convs.{i}.bn', x))
        coarsest = maps[2]
        for number, i in enumerate((1, 0)):
            doubled = maps[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
            maps[i] = self.join(f'neck.top_down_blocks.{number}', doubled, maps[i])
        outs = maps[:1]
        for i in (0, 1):
            halved = hard_swish(self.dp_module(f'neck.downsamples.{i}', outs[i], WIDTH, 2))
            outs.append(self.join(f'neck.bottom_up_blocks.{i}', halved, maps[i + 1]))
        first = hard_swish(self.dp_module('neck.first_top_conv', coarsest, WIDTH, 2))
        second = hard_swish(self.dp_module('neck.second_top_conv', outs[2], WIDTH, 2))
        return [*outs, first + second]

    def level(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        for j in (0, 1):
            for part, k in (('dw', 5), ('pw', 1)):
                name = f'head.conv_feat.cls_conv_{part}{i}.{j}'
                x = self.conv(f'{name}.conv', x, WIDTH, k, groups=WIDTH if part == 'dw' else 1)
                x = hard_swish(self.norm(f'{name}.norm', x))
        name = f'head.conv_feat.se.{i}'
        gate = self.conv(f'{name}.fc', x.mean(dim=(2, 3), keepdim=True), WIDTH, bias=True)
        gated = self.conv(f'{name}.conv.conv', x * gate.sigmoid(), WIDTH)
        gated = hard_swish(self.norm(f'{name}.conv.norm', gated))
        classes = self.conv(f'head.head_cls{i}', gated, NUM_CLASSES, bias=True).sigmoid()
        boxes = self.conv(f'head.head_reg{i}', gated, 4 * (REG_MAX + 1), bias=True)
        aligned = self.dp_module(f'head.cls_align.{i}', x, 1).sigmoid()
        return (classes * aligned + 1e-9).sqrt(), boxes

    def detector(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        outs = [self.level(i, x) for i, x in enumerate(self.neck(self.backbone(x)))]
        for i in range(4):  # what the file has beyond what is computed
            for kind in ('cls', 'reg'):
                for part in ('weight', 'bias'):
                    same = self.arrays[f'head.head_{kind}{i}.{part}']
                    self.arrays[f'head.head_{kind}_list.{i}.{part}'] = same
            self.arrays[f'head.p{3 + i}_feat.scale_reg'] = np.ones(1, np.float32)
        bins = np.arange(REG_MAX + 1, dtype=np.float32)
        self.arrays['head.distribution_project.project'] = bins
        return outs


def save(arrays: dict[str, np.ndarray], path: Path, protocol: int = 4) -> Path:
    """As `paddle.save` writes the `state_dict` of a layer."""
    names = {key: f'{key.rpartition(".")[2]}_{number}' for number, key in enumerate(arrays)}
    content = pickle.dumps({**arrays, 'StructuredToParameterName@@': names}, protocol)
    path.write_bytes(content)
    return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, list]:
    """A PicoDet-XS of Paddle's as a file, an image, and what it gives for that."""
    theirs = PaddlePicoDet()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    outs = theirs.detector(image)
    return save(theirs.arrays, tmp_path_factory.mktemp('paddle') / 'xs.pdparams'), image, outs


def picodet_xs(**head: int) -> nn.Module:
    cfg = Config.fromfile(Path(__file__).parents[1] / 'configs' / CONFIG)
    cfg.model.backbone.scale = 0.35
    cfg.model.neck.in_channels = [48, 88, 176]
    cfg.model.bbox_head.update(head)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model).eval()


@torch.no_grad()
def test_detector_computes_what_paddles_does(trained):
    file, image, expected = trained
    model = picodet_xs()
    load_weights(model, file)
    num_weights = sum('num_batches_tracked' not in key for key in model.state_dict())
    _, report = fit_weights(model, read_checkpoint(file), file, strict=True)
    assert report.endswith(f'{num_weights} of {num_weights} weights of the model filled')
    for (scores, boxes), *ours in zip(expected, *model(image, mode='tensor'), strict=True):
        assert scores.std() > 0.05 and boxes.std() > 0.1
        for out, reference in zip(ours, (scores, boxes), strict=True):
            torch.testing.assert_close(out, reference, rtol=1e-4, atol=1e-4)


def test_other_number_of_classes(trained):
    """Is not tested; a training starts from the rest."""
    file, *_ = trained
    model = picodet_xs(num_classes=3)
    with pytest.raises(InputError, match=r'cls\.weight has \(80, 96, 1, 1\) .* num_classes too'):
        load_weights(model, file)
    new = model.bbox_head.levels[0].cls.weight.clone()
    load_weights(model, file, strict=False)
    weights = read_checkpoint(file)
    assert torch.equal(model.bbox_head.levels[0].cls.weight, new)
    assert torch.equal(model.bbox_head.levels[3].reg.bias, weights['bbox_head.levels.3.reg.bias'])


@torch.no_grad()
def test_backbone_of_a_detector_and_of_a_classifier(trained, tmp_path):
    file, image, _ = trained
    theirs = PaddlePicoDet()
    maps = theirs.backbone(image)
    classifier = {key.removeprefix('backbone.'): array for key, array in theirs.arrays.items()}
    for key, *shape in (
        ('last_conv.weight', 1280, 176, 1, 1),
        ('fc.weight', 1280, 9),
        ('fc.bias', 9),
    ):
        classifier[key] = np.ones(shape, np.float32)
    for checkpoint, prefix in (
        (file, 'backbone'),
        (save(classifier, tmp_path / 'PPLCNet.pdparams'), None),
    ):
        init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix=prefix)
        model = LCNet(0.35, init_cfg=init_cfg).eval()
        model.init_weights()
        torch.testing.assert_close(model(image), tuple(maps), rtol=1e-4, atol=1e-4)


def test_every_way_of_pickling(tmp_path):
    """Protocol 2, NumPy 1's name of its core, and arrays with the names of their parameters."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pickled = pickle.dumps({'a.weight': array, 'b._mean': ('mean_0', array)}, protocol=2)
    assert b'numpy._core.multiarray' in pickled
    for content in (pickled, pickled.replace(b'numpy._core.', b'numpy.core.')):
        (tmp_path / 'file.pdparams').write_bytes(content)
        read = read_checkpoint(tmp_path / 'file.pdparams')
        assert list(read) == ['a.weight', 'b.running_mean']
        for value in read.values():
            assert torch.equal(value, torch.from_numpy(array))


class Malice:
    """Makes a folder when a pickle that holds it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('protocol', [2, 4])
def test_nothing_is_executed(tmp_path, protocol):
    target, content = tmp_path / 'made', {'a.weight': np.ones(2, np.float32)}
    file = save(content | {'b': Malice(target)}, tmp_path / 'file.pdparams', protocol)
    with pytest.raises(InputError, match=r'file\.pdparams .* it wants to call posix\.mkdir'):
        read_checkpoint(file)
    assert not target.exists()
    pickle.loads(file.read_bytes())
    assert target.exists(), 'the pickle is harmless, and the test above empty'


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'PK\3\4 anything', 'damaged or no checkpoint: UnpicklingError'),
        (pickle.dumps([1, 2]), 'it holds a list, not a dict of arrays'),
        (pickle.dumps({'a.weight': np.ones(2, np.uint16)}), 'a.weight is of uint16'),  # bfloat16
    ],
)
def test_what_is_no_file_of_floats(tmp_path, content, said):
    (tmp_path / 'file.pdparams').write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_checkpoint(tmp_path / 'file.pdparams')
