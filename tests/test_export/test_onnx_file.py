"""ONNX files against mmdet's and mmseg's own ways from an image, and what stands in their graph."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.fileio import load
from mmseg.structures import SegDataSample
from PIL import Image

onnx = pytest.importorskip('onnx', reason="the extra 'export' is not installed")
onnxruntime = pytest.importorskip('onnxruntime')

from castling_det import Predictor  # noqa: E402
from castling_det.export import onnx_file, recording  # noqa: E402
from castling_det.export.build import graphs  # noqa: E402
from castling_det.inference.run_onnx import Detections, open_model  # noqa: E402
from castling_det.inference.trained_model import TrainedModel  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def network(detector, traced):
    """The graph of boxes and scores, which is the same in the files with NMS and without."""
    _, shipped = graphs(detector.model, decodes=True, half=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, 'trace', lambda graph, image: traced)
        return onnx_file.to_onnx(shipped)


@pytest.fixture
def exports_network(network, monkeypatch):
    """No second conversion of the same graph."""

    def to_onnx(graph, prefix=''):
        model = onnx.ModelProto()
        model.CopyFrom(network)
        renamed = {output.name: f'{prefix}{output.name}' for output in model.graph.output}
        for node in model.graph.node:
            node.output[:] = [renamed.get(name, name) for name in node.output]
        for output in model.graph.output:
            output.name = renamed[output.name]
        return model

    monkeypatch.setattr(onnx_file, 'to_onnx', to_onnx)


@pytest.fixture
def with_nms(detector, exports_network, tmp_path) -> Path:
    out = tmp_path / 'onnx' / 'nms.onnx'
    agreement = onnx_file.export_onnx(detector, out, decode='nms')
    assert agreement.boxes < 1e-3 and agreement.scores < 1e-4
    assert sorted(file.name for file in out.parent.iterdir()) == ['nms.onnx', 'run_onnx.py']
    return out


def predict(detector: TrainedModel, images: np.ndarray) -> list[Detections]:
    """mmdet's way: its preprocessor, the model in training form, its post-processing."""
    bgr = torch.from_numpy(images[..., ::-1].transpose(0, 3, 1, 2).copy())
    meta = dict(ori_shape=bgr.shape[2:], img_shape=bgr.shape[2:], scale_factor=(1, 1))
    samples = [DetDataSample(metainfo=meta) for _ in bgr]
    found = detector.model.test_step(dict(inputs=list(bgr), data_samples=samples))
    found = [sample.pred_instances.numpy() for sample in found]
    return [Detections(each.bboxes, each.scores, each.labels) for each in found]


def assert_same(found: tuple, expected: tuple) -> None:
    """Boxes in px, scores and labels."""
    boxes, scores, labels = found
    assert len(boxes) == len(expected[0]) >= 5
    assert np.array_equal(labels, expected[2])
    assert np.allclose(scores, expected[1], atol=1e-4)
    assert np.allclose(boxes, expected[0], atol=1e-2)


def segment(segmentor: TrainedModel, images: np.ndarray) -> np.ndarray:
    """mmseg's way: its preprocessor, the model in training form, its post-processing."""
    bgr = torch.from_numpy(images[..., ::-1].transpose(0, 3, 1, 2).copy())
    size = tuple(bgr.shape[2:])
    samples = [SegDataSample(metainfo=dict(ori_shape=size, img_shape=size)) for _ in bgr]
    found = segmentor.model.test_step(dict(inputs=list(bgr), data_samples=samples))
    return np.stack([sample.pred_sem_seg.data[0].numpy() for sample in found])


def values(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}


def intermediate(
    model: onnx.ModelProto, op_types: set[str], image: np.ndarray
) -> dict[str, np.ndarray]:
    """What nodes of some types (none: of all) get and give, by the tensors' names."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    constant = values(model.graph).keys()
    nodes = [node for node in model.graph.node if not op_types or node.op_type in op_types]
    names = {name for node in nodes for name in (*node.input, *node.output)}
    names -= constant | {'image', ''} | {output.name for output in model.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    session = onnxruntime.InferenceSession(probed.SerializeToString())
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(None, dict(image=image)), strict=True))


def test_graph_is_castled_folded_and_standard(with_nms):
    model = onnx.load(with_nms)
    assert [(each.domain, each.version) for each in model.opset_import] == [('', 18)]
    graph = model.graph
    types = {node.op_type for node in graph.node}
    assert {'Conv', 'MatMul', 'NonMaxSuppression', 'TopK'} <= types
    assert not types & {'If', 'Loop', 'Scan', 'BatchNormalization'}
    names = [*values(graph), *(node.name for node in graph.node)]
    assert not [name for name in names if 'running_' in name]
    assert not any(node.metadata_props for node in graph.node)
    (image,) = graph.input
    sizes = [side.dim_param or side.dim_value for side in image.type.tensor_type.shape.dim]
    assert sizes == ['batch', 3, 'height', 'width']


def test_no_softmax_but_of_distances_and_no_matrix_of_tokens(network):
    """Two grids of 10 x 14 and 5 x 7 tokens, and one of 3 x 4."""
    image = np.zeros((1, 3, 160, 224), np.float32)
    tokens = {10 * 14, 5 * 7, 3 * 4}
    found = intermediate(network, set(), image)
    matrices = [value.shape[-2:] for value in found.values() if value.ndim >= 2]
    assert tokens <= {rows for rows, _ in matrices}
    assert not [shape for shape in matrices if tokens.issuperset(shape)]
    (softmax,) = (node for node in network.graph.node if node.op_type == 'Softmax')
    assert found[softmax.output[0]].shape[-2:] == (4, 8)


def test_any_size_and_batch_gives_what_mmdet_predicts(with_nms, detector, pixels):
    """Padding, decoding, clipping and NMS in the graph, at sizes that are odd and not square."""
    session = onnxruntime.InferenceSession(with_nms)
    for shape in [(1, 64, 512), (3, 97, 143), (2, 200, 33)]:
        images = pixels(*shape)
        inputs = images.transpose(0, 3, 1, 2).astype(np.float32)
        outputs = session.run(None, dict(image=inputs))
        assert outputs[0].shape == (shape[0], 100, 4)
        for *found, expected in zip(*outputs, predict(detector, images), strict=True):
            used = found[1] > 0
            assert (found[2][~used] == -1).all()
            assert_same([each[used] for each in found], expected)


def test_runtime_and_image_demo_predict_what_the_detector_does(
    with_nms, detector, exports_network, pixels, tmp_path, call, refusal
):
    with_boxes = tmp_path / 'onnx' / 'boxes.onnx'
    onnx_file.export_onnx(detector, with_boxes)
    (image,) = pixels(1, 90, 210)
    (arrays,) = detector([image])
    expected = Detections(*(arrays[name] for name in Detections._fields))
    assert_same(open_model(with_nms)(image), expected)
    assert_same(open_model(with_boxes)(image), expected)

    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    words = [tmp_path / 'a.png', '--checkpoint', with_nms, '--out-dir', tmp_path / 'out']
    call('image_demo', *words, '--score-thr', 0.6)
    (only,) = load(tmp_path / 'out/predictions.json')
    found = only['predictions']
    scores = expected.scores[expected.scores >= 0.6]
    assert len(scores) >= 2
    assert np.allclose([each['score'] for each in found], scores, atol=2e-4)
    assert (tmp_path / 'out/a.png').is_file()
    assert 'an .onnx file takes no config' in refusal('image_demo', *words, '--device', 'cuda')


def test_predictor_of_the_file_is_that_of_its_checkpoint(with_nms, checkpoint, pixels, tmp_path):
    """For pixels, pictures and files of sizes of their own, one of which lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [Image.fromarray(pixels(1, *size)[0]) for size in ((90, 210), (200, 77), (64, 512))]
    images[0].save(tmp_path / 'a.jpg', exif=exif)
    pictures = [tmp_path / 'a.jpg', images[1], np.asarray(images[2])]
    both = [
        Predictor(file)(pictures, batch_size=3, threshold=0.58) for file in (checkpoint, with_nms)
    ]
    for number, (trained, shipped) in enumerate(zip(*both, strict=True)):
        assert np.array_equal(trained.image, shipped.image)
        assert trained.image.shape == [(210, 90, 3), (200, 77, 3), (64, 512, 3)][number]
        assert trained.path == shipped.path == (None if number else Path('a.jpg'))
        assert_same(*((each.boxes, each.scores, each.labels) for each in (shipped, trained)))
        assert trained.scores.min() >= 0.58 and trained.names == shipped.names
        assert (trained.classes, trained.palette) == (shipped.classes, shipped.palette)
        types = [each.dtype for each in (shipped.boxes, shipped.scores, shipped.labels)]
        assert types == [np.float32, np.float32, np.int64]
        assert types == [each.dtype for each in (trained.boxes, trained.scores, trained.labels)]


def test_folder_in_the_place_of_the_file(tmp_path, refusal):
    said = refusal('export_onnx', 'no.py', 'no.pth', '--out', tmp_path)
    assert said == f'error: --out {tmp_path} is a folder: give the name of a file'


def test_file_of_other_weights_is_not_written(other_detector, exports_network, tmp_path):
    with pytest.raises(ValueError, match='a.onnx is not written: .* too far from the model'):
        onnx_file.export_onnx(other_detector, tmp_path / 'new' / 'a.onnx')
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_half_computes_norms_sums_and_decoding_in_float32(detector, pixels, monkeypatch):
    """Weights are float16; attention multiplies, scores and boxes are made in float32.

    Recorded for one size, which is faster, and of which the types do not depend.
    """
    trained, shipped = graphs(detector.model, decodes=True, half=True)
    image = torch.from_numpy(pixels(1, 64, 512)).permute(0, 3, 1, 2).float()
    monkeypatch.setattr(
        recording, 'trace', lambda graph, _: torch.export.export(graph, (image,), strict=False)
    )
    model = onnx_file.to_onnx(shipped)
    found = intermediate(model, {'MatMul', 'ReduceL2', 'Softmax'}, image.numpy())
    stored = values(model.graph)
    weights = [value for name, value in stored.items() if name.startswith('model.')]
    assert len(weights) > 50 and {value.dtype for value in weights} == {np.dtype('float16')}

    nodes = {op_type: [] for op_type in ('MatMul', 'ReduceL2', 'Softmax')}
    for node in model.graph.node:
        if node.op_type in nodes and not (node.op_type == 'MatMul' and node.input[1] in stored):
            nodes[node.op_type].append(node)
    for same in nodes.values():
        assert {found[node.input[0]].dtype for node in same} == {np.dtype('float32')}
    assert {output.type.tensor_type.elem_type for output in model.graph.output} == {1}
    boxes, scores = trained(image)
    assert np.allclose(found['scores'], scores, atol=0.02)
    assert np.allclose(found['boxes'], boxes, atol=3)


def test_label_maps_are_those_of_mmseg(segmentor, pixels, tmp_path, call):
    """Any size and batch; and the runtime and the demo, where the file's size is the image's."""
    out = tmp_path / 'onnx' / 'labels.onnx'
    agreement = onnx_file.export_onnx(segmentor, out)
    assert agreement.logits < 1e-3 and agreement.labels > 0.999
    assert sorted(file.name for file in out.parent.iterdir()) == ['labels.onnx', 'run_onnx.py']
    model = onnx.load(out)
    assert [(each.domain, each.version) for each in model.opset_import] == [('', 18)]
    types = {node.op_type for node in model.graph.node}
    assert not types & {'If', 'Loop', 'Scan', 'BatchNormalization', 'Softmax'}
    names = [*values(model.graph), *(node.name for node in model.graph.node)]
    assert not [name for name in names if 'running_' in name]
    (labels,) = model.graph.output
    sizes = [side.dim_param for side in labels.type.tensor_type.shape.dim]
    assert sizes == ['batch', 'height', 'width']

    session = onnxruntime.InferenceSession(out)
    for shape in [(1, 64, 512), (3, 97, 143), (2, 200, 33)]:
        images = pixels(*shape)
        (found,) = session.run(None, dict(image=images.transpose(0, 3, 1, 2).astype(np.float32)))
        expected = segment(segmentor, images)
        assert found.shape == shape and len(np.unique(expected)) >= 3
        assert (found == expected).mean() > 0.999

    (image,) = pixels(1, 64, 512)
    expected = segmentor([image])[0]['label_map']
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    call('image_demo', tmp_path / 'a.png', '--checkpoint', out, '--out-dir', tmp_path / 'out')
    drawn = np.asarray(Image.open(tmp_path / 'out/label_maps/a.png.png'))
    assert (drawn == expected).mean() > 0.999
    assert (tmp_path / 'out/a.png').is_file()


def test_mask2former_of_any_size_and_batch(mask2former, pixels, tmp_path):
    out = tmp_path / 'mask2former.onnx'
    assert onnx_file.export_onnx(mask2former, out, decode='raw').logits < 1e-3
    types = {node.op_type for node in onnx.load(out).graph.node}
    assert 'GridSample' in types and not types & {'If', 'Loop', 'Scan', 'BatchNormalization'}
    trained, _ = graphs(mask2former.model, decodes=False, half=False)
    session = onnxruntime.InferenceSession(out)
    for shape in [(1, 192, 256), (2, 97, 143)]:  # the first is that of the learned positions
        images = pixels(*shape).transpose(0, 3, 1, 2).astype(np.float32)
        (found,) = session.run(None, dict(image=images))
        expected = trained.logits(torch.from_numpy(images))
        assert expected.std(dim=(2, 3)).max() > 0.01
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-3, rtol=0)
