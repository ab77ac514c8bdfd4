"""The runtime file on graphs written by hand, whose boxes and labels are known."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import matplotlib
import mmcv
import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms
from mmcv.transforms import CenterCrop
from mmpretrain.datasets.transforms import ResizeEdge
from PIL import Image
from torch.nn import functional as F

onnx = pytest.importorskip('onnx', reason="the extra 'export' is not installed")
pytest.importorskip('onnxruntime')


from castling_det.datasets.data_folder import DataFolder  # noqa: E402
from castling_det.inference import run_onnx  # noqa: E402
from castling_det.inference.run_onnx import nms, open_model, resize  # noqa: E402

METADATA = dict(
    task='detection',
    classes=['cat', 'dog'],
    palette=[[255, 0, 0], [0, 0, 255]],
    decode='boxes',
    input_size=[20, 40],
    most_sides=None,
    interpolation='bicubic',
    score_thr=0.2,
    iou_threshold=0.5,
    max_per_img=100,
)


def write(path: Path, metadata: dict) -> Path:
    """Three boxes in an input of 20 x 40; the last is the first once more, 0.05 less sure.

    The score of a dog in the second is the mean of the image's red, divided by 255.
    """
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18]>
        known (float[batch, 3, height, width] image)
            => (float[1, 3, 4] boxes, float[1, 3, 2] scores)
        {
            boxes = Constant <value = float[1, 3, 4]
                {0, 0, 10, 10,  20, 5, 40, 20,  0, 0, 10, 9}> ()
            certain = Constant <value = float[1, 3, 2] {0.9, 0.1,  0, 0,  0.85, 0}> ()
            place = Constant <value = float[1, 3, 2] {0, 0,  0, 0.00392156862745098,  0, 0}> ()
            mean = ReduceMean <keepdims = 0> (red)
            measured = Mul (place, mean)
            scores = Add (certain, measured)
            first = Constant <value = int64[1] {0}> ()
            second = Constant <value = int64[1] {1}> ()
            red = Slice (image, first, second, second)
        }
    """)
    nodes = {node.output[0]: node for node in model.graph.node}
    names = ['boxes', 'certain', 'place', 'first', 'second', 'red', 'mean', 'measured', 'scores']
    order = [nodes[name] for name in names]
    del model.graph.node[:]
    model.graph.node.extend(order)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)
    return path


def write_segmentor(path: Path, decode: str) -> Path:
    """Red, green and blue are the logits of three classes."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 18]>
        colours (float[batch, 3, height, width] image) => """
        + (
            '(int64[batch, height, width] labels) '
            '{ labels = ArgMax <axis = 1, keepdims = 0> (image) }'
            if decode == 'labels'
            else '(float[batch, 3, height, width] logits) { logits = Identity (image) }'
        )
    )
    metadata = dict(
        task='segmentation',
        decode=decode,
        classes=['red', 'green', 'blue'],
        palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        input_size=[20, 40],
        most_sides=None,
        interpolation='bilinear',
    )
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)
    return path


def write_classifier(path: Path, decode: str) -> Path:
    """The means of red, green and blue are the logits of three classes."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 18]>
        colours (float[batch, 3, height, width] image) => (float[batch, 3] scores) {
            sides = Constant <value = int64[2] {2, 3}> ()
            logits = ReduceMean <keepdims = 0> (image, sides)
            scores = """
        + ('Softmax <axis = 1> (logits) }' if decode == 'scores' else 'Identity (logits) }')
    )
    metadata = dict(
        task='classification',
        decode=decode,
        classes=['red', 'green', 'blue'],
        palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        input_size=[20, 30],
        most_sides=None,
        short_side=40,
        interpolation='bilinear',
        backend='pillow',
    )
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)
    return path


@pytest.fixture
def known(tmp_path) -> Path:
    return write(tmp_path / 'known.onnx', METADATA)


def picture(height: int, width: int, red: int) -> np.ndarray:
    """RGB."""
    return np.full((height, width, 3), (red, 40, 80), np.uint8)


def test_detector_resizes_suppresses_and_scales_back(known):
    found = open_model(known, threads=1)(picture(40, 120, red=153))
    assert found.labels.tolist() == [0, 1]
    assert found.scores == pytest.approx([0.9, 0.6])
    assert found.boxes.tolist() == [[0, 0, 30, 20], [60, 10, 120, 40]]
    assert len(open_model(known)(picture(40, 120, red=50)).boxes) == 1  # 0.2 is not above 0.2


@pytest.mark.parametrize('decode', ['scores', 'raw'])
def test_classifier_sees_the_centre_of_a_resized_image(tmp_path, capsys, monkeypatch, decode):
    classify = open_model(write_classifier(tmp_path / 'a.onnx', decode))
    image = picture(80, 200, red=40)
    image[:20] = image[60:] = image[:, :70] = image[:, 130:] = 255  # 20x30 of 40x100 px are left
    image[25, 75] = (40, 46, 78)
    Image.fromarray(image).save(tmp_path / 'a.png')
    expected = torch.tensor([40.0, 40.0, 80.0]).softmax(dim=0)
    assert classify(image) == pytest.approx(expected.tolist(), abs=1e-3)
    words = [tmp_path / 'a.onnx', tmp_path / 'a.png', '--out', tmp_path / 'b.png']
    monkeypatch.setattr(sys, 'argv', ['run_onnx.py', *map(str, words)])
    run_onnx.main()
    best, *others = json.loads(capsys.readouterr().out)
    assert best == dict(label='blue', score=1.0) and len(others) == 2
    drawn = np.asarray(Image.open(tmp_path / 'b.png'))
    assert drawn.shape == image.shape and (drawn[:12, :40] == 0).any()


@pytest.mark.parametrize('size', [(77, 133), (133, 77), (61, 61)], ids=str)
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_what_is_cut_out_is_what_mmpretrain_cuts_out(size, backend, interpolation):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    steps = [
        ResizeEdge(50, interpolation=interpolation, backend=backend),
        CenterCrop((47, 44)),  # width, height
    ]
    results = dict(img=noise)
    for step in steps:
        results = step(results)
    metadata = METADATA | dict(short_side=50)
    resized = run_onnx.OnnxModel(None, metadata).input_size(*size)
    pixels = run_onnx.center(resize(noise, *resized, interpolation, backend), 44, 47)
    assert np.abs(pixels - results['img']).max() <= (interpolation, backend).count('cv2')


@pytest.mark.parametrize('size', [(333, 500), (500, 333), (97, 400)], ids=str)
def test_images_that_keep_their_proportions_are_sized_as_by_mmcv(tmp_path, size):
    model = open_model(write(tmp_path / 'known.onnx', METADATA | dict(most_sides=[20, 40])))
    assert model.input_size(*size)[::-1] == mmcv.rescale_size(size[::-1], (40, 20))
    found = model(picture(*size, red=153))
    scale = [size[1] / model.input_size(*size)[1], size[0] / model.input_size(*size)[0]]
    assert found.boxes[0] == pytest.approx([0, 0, 10 * scale[0], 10 * scale[1]])


def test_segmentor_gives_labels_of_the_images_size(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    image = cv2.resize(image, (97, 61), interpolation=cv2.INTER_CUBIC)
    small = torch.from_numpy(cv2.resize(image, (40, 20))).permute(2, 0, 1)[None].float()
    by_logits = F.interpolate(small, (61, 97), mode='bilinear').argmax(dim=1)[0].numpy()
    by_labels = F.interpolate(small.argmax(1)[:, None].float(), (61, 97), mode='nearest-exact')
    found = open_model(write_segmentor(tmp_path / 'raw.onnx', 'raw'))(image)
    assert found.dtype == np.int64 and (found == by_logits).mean() > 0.999
    labels = write_segmentor(tmp_path / 'labels.onnx', 'labels')
    found = open_model(labels)(image)
    assert found.dtype == np.int64 and np.array_equal(found, by_labels[0, 0])
    assert 0.9 < (found == by_logits).mean() < 1


def test_command_writes_a_label_map_and_an_overlay(tmp_path, monkeypatch, capsys):
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :30, 2], image[:, 30:, 0] = 100, 200
    Image.fromarray(image).save(tmp_path / 'a.png')
    model = write_segmentor(tmp_path / 'a.onnx', 'labels')
    command = ['run_onnx.py', model, tmp_path / 'a.png', '--out', tmp_path / 'b.png']
    command += ['--labels', tmp_path / 'labels.png']
    monkeypatch.setattr(sys, 'argv', list(map(str, command)))
    run_onnx.main()
    assert json.loads(capsys.readouterr().out) == [
        dict(label='blue', share=0.75),
        dict(label='red', share=0.25),
    ]
    labels = Image.open(tmp_path / 'labels.png')
    assert labels.mode == 'P' and labels.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
    assert np.array_equal(
        np.asarray(labels), np.where(np.arange(40) < 30, 2, 0)[None].repeat(20, 0)
    )
    drawn = np.asarray(Image.open(tmp_path / 'b.png'))
    assert drawn[0, 0].tolist() == [0, 0, 193] and drawn[0, 39].tolist() == [233, 0, 0]
    legend = drawn[:, 40:]
    assert [legend[8, 8].tolist(), legend[24, 8].tolist()] == [[0, 0, 255], [255, 0, 0]]
    assert (legend[2:16, 20:] < 128).any() and (legend[18:32, 20:] < 128).any()


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command, and give what it printed: json, and the standard error."""

    def command(*words: object) -> tuple[list[dict], str]:
        monkeypatch.setattr(sys, 'argv', ['run_onnx.py', *map(str, words)])
        run_onnx.main()
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    return command


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with two images, one of them in a folder of it, and a damaged one."""
    for name in ('photos/a.png', 'photos/deep/b.bmp', 'c.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(20, 40, red=153)).save(tmp_path / name)
    (tmp_path / 'photos' / 'text.jpg').write_text('no image')
    return tmp_path / 'photos'


def test_command_takes_folders_and_several_images(known, photos, tmp_path, command):
    """What was drawn before, in a folder of the input, is no input."""
    for _ in range(2):
        words = (known, photos, tmp_path / 'c.png', '--out', photos / 'drawn')
        found, said = command(*words, '--score-thr', 0.7)
    names = ['a.png', 'deep/b.bmp', 'c.png']
    only = dict(bbox_xyxy=[0, 0, 10, 10], score=0.9, label='cat')
    assert found == [dict(file=name, predictions=[only]) for name in names]
    assert '4 of 4 images, 0 s left' in said and 'left out text.jpg: image' in said
    drawn = sorted(str(f.relative_to(photos / 'drawn')) for f in (photos / 'drawn').rglob('*.*'))
    assert drawn == ['a.png', 'c.png', 'deep/b.bmp.png']
    assert said.endswith(
        f'3 pictures in {photos / "drawn"}, 3 boxes with a score of at least 0.7\n'
    )


def test_command_writes_label_maps_of_a_folder(photos, tmp_path, command):
    model = write_segmentor(tmp_path / 'a.onnx', 'labels')
    for _ in range(2):
        found, _ = command(model, photos, '--labels', photos / 'maps')
    assert [each['file'] for each in found] == ['a.png', 'deep/b.bmp']
    assert found[0]['predictions'] == [dict(label='red', share=1.0)]
    maps = sorted(str(f.relative_to(photos / 'maps')) for f in (photos / 'maps').rglob('*.*'))
    assert maps == ['a.png.png', 'deep/b.bmp.png']


def test_command_overwrites_no_image(known, photos, tmp_path, command):
    (tmp_path / 'none').mkdir()
    Image.fromarray(picture(20, 40, red=3)).save(tmp_path / 'none.png')
    before = (photos / 'a.png').read_bytes()
    segmentor = write_segmentor(tmp_path / 'labels.onnx', 'labels')
    for words, reason in (
        ((photos, '--out', photos), 'holds the input'),
        ((photos / 'a.png', tmp_path / 'c.png', '--out', tmp_path), 'holds the input'),
        ((tmp_path / 'none',), 'none holds no image'),
        ((photos / 'text.jpg', photos / 'no.jpg'), 'none of the 2 images could be predicted'),
        ((photos / 'a.png', '--out', photos / 'a.png'), '--out .* is or holds the input'),
        ((photos / 'a.png', '--labels', photos / 'deep' / '..' / 'a.png'), '--labels .* the input'),
        ((photos, '--labels', photos), '--labels .* is or holds the input'),
        ((photos, '--out', tmp_path / 'd', '--labels', tmp_path / 'd'), 'are both .*/d: choose'),
    ):
        with pytest.raises(SystemExit, match=f'^error: .*{reason}'):
            command(segmentor if '--labels' in words else known, *words)
    assert (photos / 'a.png').read_bytes() == before
    assert len(command(known, photos, photos / 'a.png')[0]) == 2  # the same image is one
    (tmp_path / 'a.png').write_bytes((photos / 'a.png').read_bytes())
    with pytest.raises(SystemExit, match='a.png would have one name'):
        command(known, photos, tmp_path / 'a.png')


def test_linked_folders_are_looked_into_and_no_folder_in_itself(photos, tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'c.png').rename(tmp_path / 'elsewhere' / 'c.png')
    (photos / 'linked').symlink_to(tmp_path / 'elsewhere')
    (photos / 'deep' / 'up').symlink_to(photos)
    (tmp_path / 'elsewhere' / 'back').symlink_to(photos / 'deep')
    names = ['a.png', 'deep/b.bmp', 'linked/back/b.bmp', 'linked/c.png', 'text.jpg']
    assert list(map(str, run_onnx.images_below(photos))) == names
    assert sorted(map(str, DataFolder(photos).images)) == names


def test_a_label_map_has_256_classes_at_most():
    labels = np.arange(256).reshape(16, 16)
    segmentor = SimpleNamespace(palette=[(number, 0, 255 - number) for number in range(256)])
    picture = run_onnx.draw_labels(labels, segmentor)
    assert (np.asarray(picture) == labels).all()
    assert picture.convert('RGB').getpixel((3, 2)) == (35, 0, 220)
    segmentor.palette.append((0, 0, 0))
    with pytest.raises(ValueError, match='257 classes do not fit into 8 bits'):
        run_onnx.draw_labels(labels, segmentor)


def test_command_needs_neither_torch_nor_openmmlab(known, tmp_path):
    """A copy of the file elsewhere, on a picture that lies on its side."""
    upright = picture(40, 120, red=153)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / 'a.png', exif=exif)
    (tmp_path / 'runtime.py').write_bytes(Path(run_onnx.__file__).read_bytes())
    blocked = ['torch', 'torchvision', 'mmcv', 'mmdet', 'mmengine', 'cv2', 'castling_det', 'onnx']
    script = (
        'import runpy, sys\n'
        f'sys.modules.update(dict.fromkeys({blocked}))\n'
        'sys.argv = ["runtime.py", "known.onnx", "a.png", "--out", "b.png", "--score-thr", "0.5"]\n'
        'runpy.run_path("runtime.py", run_name="__main__")'
    )
    done = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        dict(bbox_xyxy=[0, 0, 30, 20], score=0.9, label='cat'),
        dict(bbox_xyxy=[60, 10, 120, 40], score=0.6, label='dog'),
    ]
    drawn = np.asarray(Image.open(tmp_path / 'b.png'))
    assert drawn.shape == upright.shape
    assert drawn[35, 60].tolist() == [0, 0, 255] and drawn[35, 80].tolist() == [153, 40, 80]


@pytest.mark.parametrize(
    ('name', 'flag', 'most'),
    [('bicubic', cv2.INTER_CUBIC, 0.001), ('bilinear', cv2.INTER_LINEAR, 0)],
)
def test_resize_is_opencvs(name, flag, most):
    """From pictures larger, smaller and of the same size, bicubic up to one rounding."""
    rng = np.random.default_rng(0)
    for height, width in ((61, 90), (7, 9), (66, 80), (33, 40)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = cv2.resize(image, (40, 33), interpolation=flag)
        difference = np.abs(resize(image, 33, 40, name) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() <= most


def test_resize_of_photos_is_opencvs():
    """Whose places in the photo are rounded to 32 bits."""
    rng = np.random.default_rng(0)
    for (height, width), (rows, cols) in (((1200, 1601), (1333, 1333)), ((600, 800), (800, 1066))):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = cv2.resize(image, (cols, rows), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize(image, rows, cols, 'bilinear'), expected)


def test_a_strip_without_a_shorter_side_is_left_out(photos, tmp_path, command):
    """A row of 3,000 pixels, in 400 px."""
    Image.fromarray(picture(1, 3000, red=153)).save(photos / 'strip.png')
    model = write(tmp_path / 'sides.onnx', METADATA | dict(most_sides=[200, 400]))
    found, said = command(model, photos)
    assert [each['file'] for each in found] == ['a.png', 'deep/b.bmp']
    assert 'left out strip.png: an image of 1x3000 pixels is too narrow' in said


def test_providers_and_label_maps_that_are_not_there(known, photos, command):
    for words, said in (
        (('--provider', 'CUDA'), 'no CUDA here: onnxruntime has .*CPUExecutionProvider'),
        (('--labels', photos / 'maps'), 'known.onnx is no segmentor'),
    ):
        with pytest.raises(SystemExit, match=said):
            command(known, photos, *words)


def test_nms_is_that_of_mmcv():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 80, (600, 2)).astype(np.float32)
    boxes = np.hstack([corners, corners + rng.uniform(5, 40, (600, 2)).astype(np.float32)])
    scores, labels = rng.random(600, dtype=np.float32), rng.integers(0, 3, 600)
    tensors = map(torch.from_numpy, (boxes, scores, labels))
    _, expected = batched_nms(*tensors, dict(type='nms', iou_threshold=0.5))
    assert 100 < len(expected) < 550
    assert np.array_equal(nms(boxes, scores, labels, 0.5, 600), expected)
    assert np.array_equal(nms(boxes, scores, labels, 0.5, 7), expected[:7])
    assert len(nms(boxes[:0], scores[:0], labels[:0], 0.5, 7)) == 0


def test_nms_at_the_threshold_and_between_equals():
    """At it a box stays; of equal scores the first wins; other classes are let alone."""
    half = np.array([[0, 0, 2, 1], [0, 0, 1, 1]], np.float32)  # IoU 1/2
    scores, same = np.array([0.9, 0.8], np.float32), np.array([0, 0])
    assert nms(half, scores, same, 0.5, 9).tolist() == [0, 1]
    assert nms(half, scores, same, 0.49, 9).tolist() == [0]
    assert nms(half, scores[::-1], same, 0.49, 9).tolist() == [1]
    assert nms(half, scores[[0, 0]], same, 0.49, 9).tolist() == [0]
    assert nms(half, scores, np.array([0, 1]), 0.49, 9).tolist() == [0, 1]
    apart = np.array([[0, 0, 1, 1], [0, 2, 1, 3], [2, 0, 3, 1]], np.float32)  # sides that miss
    assert nms(apart, np.ones(3, np.float32), np.zeros(3), 0.0, 9).tolist() == [0, 1, 2]
    crossed = np.array([[0, 0, 1, 1], [3, 3, 4, 4]], np.float32)  # both sides negative
    assert nms(crossed, scores, same, 0.5, 9).tolist() == [0, 1]


def test_files_that_it_cannot_run_are_refused(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match='no.onnx does not exist'):
        open_model(tmp_path / 'no.onnx')
    with pytest.raises(ValueError, match='bare.onnx does not say its classes, .*, task: write it'):
        open_model(write(tmp_path / 'bare.onnx', {}))
    with pytest.raises(ValueError, match='raw.onnx holds raw outputs'):
        open_model(write(tmp_path / 'raw.onnx', METADATA | dict(decode='raw')))


def test_nms_suppresses_above_the_threshold_and_within_a_class():
    """IoU 0.5 exactly: at the threshold both stay, above it one of a class goes."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert nms(boxes, scores, np.zeros(3, int), 0.5, 9).tolist() == [0, 1]
    assert nms(boxes, scores, np.zeros(3, int), 0.49, 9).tolist() == [0]
    assert nms(boxes, scores, np.array([0, 0, 1]), 0.49, 9).tolist() == [0, 2]


def test_command_ends_in_one_sentence(tmp_path, monkeypatch, known, large_image):
    Image.fromarray(picture(20, 40, red=3)).save(tmp_path / 'a.png')
    (tmp_path / 'text.onnx').write_text('no model')
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'a.png').read_bytes()[:60])
    (tmp_path / 'text.jpg').write_text('no image')
    for model, image, said in (
        ('text.onnx', 'a.png', 'text.onnx is damaged or no ONNX file'),
        ('known.onnx', 'none.png', 'image .*none.png cannot be read: .*No such file'),
        ('known.onnx', 'cut.png', 'image .*cut.png cannot be read'),
        ('known.onnx', 'text.jpg', 'image .*text.jpg cannot be read'),
        ('known.onnx', large_image.name, 'large.png cannot be read: .* exceeds limit of 178956970'),
    ):
        monkeypatch.setattr(sys, 'argv', ['run', str(tmp_path / model), str(tmp_path / image)])
        with pytest.raises(SystemExit, match=f'^error: .*{said}') as error:
            run_onnx.main()
        assert '\n' not in str(error.value)


def test_labels_of_boxes_at_one_place_do_not_cover_one_another(known):
    """The best one's stands above the boxes, in its colour, the other's within them."""
    image = np.full((200, 200, 3), 255, np.uint8)
    found = run_onnx.Detections(
        np.array([[60.0, 60, 190, 190]] * 2), np.array([0.9, 0.8]), np.array([0, 1])
    )
    drawn = np.asarray(run_onnx.draw_boxes(image, found, open_model(known)))
    above, within = drawn[45:60, 60:190], drawn[63:75, 63:188]
    for place, colour, other in (
        (above, [255, 0, 0], [0, 0, 255]),
        (within, [0, 0, 255], [255, 0, 0]),
    ):
        assert (place == colour).all(axis=2).any() and not (place == other).all(axis=2).any()


def test_names_beyond_ascii_are_drawn_or_numbered(known, monkeypatch, capsys):
    """On boxes, and each of a classifier's for itself."""
    detector = open_model(known)
    found = run_onnx.Detections(np.array([[5, 5, 60, 30.0]]), np.array([0.9]), np.array([0]))

    def drawn(name: str) -> list[np.ndarray]:
        detector.classes[0] = name
        image, scores = picture(40, 90, red=3), np.array([0.9, 0.1])
        pictures = (
            run_onnx.draw_boxes(image, found, detector),
            run_onnx.draw_classes(image, scores, detector),
        )
        return list(map(np.asarray, pictures))

    dejavu = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'
    for fonts in ((), (str(dejavu),)):
        monkeypatch.setattr(run_onnx, 'FONTS', fonts)
        run_onnx.font_for.cache_clear()
        names = 'class 0', '屋顶', 'Straße'
        for numbered, roof, street in zip(*map(drawn, names), strict=True):
            assert np.array_equal(roof, numbered)
            assert np.array_equal(street, numbered) == (not fonts)
    run_onnx.font_for.cache_clear()
    assert 'warning: no font here can write class 0: 屋顶' in capsys.readouterr().err
