"""Every kind of image: what ships reads the numbers that training reads, or refuses."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy import ndarray
from PIL import Image

pytest.importorskip('onnxruntime')

from castling_det.datasets.loading import LoadReadableImage  # noqa: E402
from castling_det.errors import InputError  # noqa: E402
from castling_det.inference.frames import open_frames  # noqa: E402
from castling_det.inference.run_onnx import read_image, rgb_values  # noqa: E402


def colours(channels: int, kind: type = np.uint8) -> ndarray:
    """31x46 px, smooth, over the whole range of the type."""
    noise = np.random.default_rng(0).random((5, 7, channels), np.float32)
    most = np.iinfo(kind).max
    return (cv2.resize(noise, (46, 31)).reshape(31, 46, channels) * most).astype(kind)


def pillow(mode: str, **options):
    channels = dict(L=1, LA=2, RGB=3, RGBA=4, CMYK=4)[mode]
    return lambda path: Image.fromarray(colours(channels).squeeze(), mode).save(path, **options)


def opencv(channels: int, kind: type = np.uint8):
    return lambda path: cv2.imwrite(str(path), colours(channels, kind))


def palette(**options):
    image = Image.fromarray(colours(3)).quantize(64)
    return lambda path: image.save(path, **options)


def one_bit(path: Path) -> None:
    Image.fromarray(colours(1)[..., 0] > 128).save(path)


def turned(orientation: int, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda path: Image.fromarray(colours(3)).save(path, exif=exif, **options)


# Kind, suffix, how it is written, and the largest difference.
EQUAL = [
    ('grey', 'png', pillow('L'), 0),
    ('grey', 'jpg', pillow('L'), 0),
    ('RGB', 'png', pillow('RGB'), 0),
    ('RGB', 'jpg', pillow('RGB'), 0),
    ('RGB', 'tif', pillow('RGB'), 0),
    ('RGB', 'bmp', pillow('RGB'), 0),
    ('RGB', 'webp', pillow('RGB', lossless=True), 0),
    ('16-bit grey', 'png', opencv(1, np.uint16), 0),
    ('16-bit grey', 'tif', opencv(1, np.uint16), 0),
    ('16-bit RGB', 'png', opencv(3, np.uint16), 0),
    ('16-bit RGB', 'tif', opencv(3, np.uint16), 1),
    ('16-bit RGBA', 'png', opencv(4, np.uint16), 0),
    ('grey with alpha', 'png', pillow('LA'), 0),
    ('RGBA', 'png', pillow('RGBA'), 0),
    ('four bands', 'tif', opencv(4), 0),
    ('palette', 'png', palette(), 0),
    ('transparent colour', 'png', palette(transparency=3), 0),
    ('transparent colours', 'png', palette(transparency=bytes(range(64))), 0),
    ('palette', 'tif', palette(), 0),
    ('1 bit', 'png', one_bit, 0),
    ('1 bit', 'tif', one_bit, 0),
    ('CMYK', 'jpg', pillow('CMYK'), 0),
    ('CMYK', 'tif', pillow('CMYK'), 0),
    *((f'turned {o}', suffix, turned(o), 0) for o in (3, 6, 7) for suffix in ('jpg', 'png')),
    ('turned 6', 'webp', turned(6, lossless=True), 0),
]
REFUSED = [
    ('float', 'tif', lambda path: Image.fromarray(colours(1)[..., 0] / np.float32(255)).save(path)),
    ('32-bit', 'tif', lambda path: Image.fromarray(colours(1)[..., 0].astype(np.int32)).save(path)),
]


@pytest.mark.parametrize(
    ('suffix', 'write', 'most'), [row[1:] for row in EQUAL], ids=[f'{r[0]}.{r[1]}' for r in EQUAL]
)
@pytest.mark.filterwarnings('ignore')
def test_runtime_reads_what_training_reads(tmp_path, suffix, write, most):
    path = tmp_path / f'a.{suffix}'
    write(path)
    trained_on = LoadReadableImage()(dict(img_path=str(path)))['img'][..., ::-1]
    (shown,) = open_frames(path)
    assert np.array_equal(shown.image, trained_on)
    shipped = read_image(path)
    assert shipped.shape == trained_on.shape and shipped.dtype == np.uint8
    difference = np.abs(shipped.astype(int) - trained_on).max()
    assert difference <= most
    assert trained_on.std() > 20


@pytest.mark.parametrize(
    ('suffix', 'write'), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_neither_reads_is_refused_by_name(tmp_path, suffix, write):
    path = tmp_path / f'a.{suffix}'
    write(path)
    with pytest.raises(InputError, match='a.tif is missing, damaged or not an image'):
        LoadReadableImage()(dict(img_path=str(path)))
    with pytest.raises(ValueError, match='image .*a.tif cannot be read: pixels of mode'):
        read_image(path)


def test_what_would_be_read_otherwise_is_refused_by_name(tmp_path):
    pillow('RGBA')(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match='TIFF with transparency would be read otherwise'):
        read_image(tmp_path / 'a.tif')
    opencv(1, np.uint16)(tmp_path / 'a.pgm')
    with pytest.raises(ValueError, match='a.pgm cannot be read: pixels of mode I '):
        read_image(tmp_path / 'a.pgm')
    with pytest.raises(ValueError, match=r'not \(4, 5\) of float64'):
        rgb_values(np.zeros((4, 5)))
