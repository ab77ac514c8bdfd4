"""What becomes int8 in a file, and from which images."""

from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image

pytest.importorskip('onnxruntime')

from castling_det.errors import InputError
from castling_det.export.onnx_model import OPSET, onnx, session
from castling_det.export.quantization import calibration_images, quantised
from castling_det.inference.run_onnx import resize


@pytest.fixture
def model() -> onnx.ModelProto:
    """A convolution, a linear layer, a product of activations, and the mean of a distribution."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : {OPSET}]>
        tiny (float[batch, 3, height, width] image) => (float[batch, n] y) {{
            shape = Constant <value = int64[3] {{0, 4, -1}}> ()
            maps = Conv (image, filters)
            tokens = Reshape (maps, shape)
            transposed = Transpose <perm = [0, 2, 1]> (tokens)
            linear = MatMul (transposed, weight)
            mixed = MatMul (linear, tokens)
            p = Softmax (linear)
            distances = MatMul (p, project)
            axis = Constant <value = int64[1] {{2}}> ()
            mean = ReduceMean <keepdims = 0> (mixed, axis)
            y = Add (mean, distances)
        }}
    """)
    rng = np.random.default_rng(0)
    for name, shape in dict(filters=(4, 3, 3, 3), weight=(4, 4), project=(4,)).items():
        values = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def images(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.random((1, 3, 9, 8), np.float32) for _ in range(number)]


def test_layers_with_weights_become_int8_and_nothing_else(model):
    graph = quantised(model, images(4)).graph
    made_by = {name: node for node in graph.node for name in node.output}

    def is_quantised(name: str) -> bool:
        (node,) = (node for node in graph.node if node.name == name)
        return all(
            each in made_by and made_by[each].op_type == 'DequantizeLinear' for each in node.input
        )

    assert [is_quantised(name) for name in ('maps', 'linear', 'mixed', 'distances')] == [
        True,
        True,
        False,
        False,
    ]
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {name: value for name, value in stored.items() if name.endswith('_scale')}
    assert scales['filters_scale'].shape == (4,)  # one a channel
    assert stored['filters_quantized'].dtype == np.int8


def test_numbers_stay_close(model):
    (expected,), (found,) = (
        session(each).run(None, {'image': images(1)[0]})
        for each in (model, quantised(model, images(4)))
    )
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.fixture
def trained(tmp_path) -> SimpleNamespace:
    """With nine training images; folder a has the even numbers, b the odd ones."""
    init_default_scope('mmpretrain')
    for number in range(9):
        folder = tmp_path / 'ab'[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new('RGB', (12, 10), (10 * number, 0, 255)).save(folder / f'{number}.png')
    dataset = dict(type='CustomDataset', data_root=str(tmp_path), pipeline=[])
    cfg = ConfigDict(train_dataloader=dict(dataset=dataset))
    return SimpleNamespace(model=SimpleNamespace(cfg=cfg))


def prepare(image: np.ndarray) -> np.ndarray:
    """As a file of 6x8 px wants it."""
    return resize(image, 6, 8, 'bilinear')


def test_images_are_spread_over_the_training_set(trained):
    found = list(calibration_images(trained, prepare, 3))
    assert [image.shape for image in found] == [(1, 3, 6, 8)] * 3
    # The first, the middle and the last of both folders.
    assert [image[0, :, 0, 0].tolist() for image in found] == [
        [0, 0, 255],
        [80, 0, 255],
        [70, 0, 255],
    ]
    assert len(list(calibration_images(trained, prepare, 100))) == 9


def test_images_that_cannot_be_read_are_left_out(trained, tmp_path):
    """As in training, which reads what Pillow alone does not."""
    Image.new('RGBA', (12, 10), (1, 2, 3, 255)).save(tmp_path / 'a' / '0.png', format='TIFF')
    (tmp_path / 'b' / '1.png').write_text('no image')
    found = list(calibration_images(trained, prepare, 100))
    assert [image[0, 0, 0, 0] for image in found] == [1, 20, 40, 60, 80, 30, 50, 70]
    for file in tmp_path.glob('*/*.png'):
        file.write_text('no image')
    with pytest.raises(InputError, match=r'--int8 takes images of train_.*\(none of 3 can\): put'):
        list(calibration_images(trained, prepare, 3))


def test_training_data_that_is_not_there(trained):
    trained.model.cfg.train_dataloader.dataset.data_root = '/nowhere'
    with pytest.raises(InputError, match='--int8 takes images of train_dataloader.*/nowhere'):
        list(calibration_images(trained, prepare, 3))
