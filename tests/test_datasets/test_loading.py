"""Every kind of image file comes out right, and one that cannot be read is named or skipped."""

import io
import json
import logging

import cv2
import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from numpy import ndarray
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from castling_det.datasets.loading import LoadReadableImage


@pytest.fixture
def picture() -> ndarray:
    """A smooth picture that differs from its mirrored, turned and inverted forms, RGB."""
    y, x = np.mgrid[:48, :64]
    return np.stack([3 * x + 20, 4 * y + 10, 2 * x + y], axis=2).astype(np.uint8)


def loaded(path) -> ndarray:
    """What the pipelines of our configs make of a file, as RGB."""
    return LoadReadableImage().transform(dict(img_path=str(path)))['img'][..., ::-1]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_sixteen_bits_become_the_eight_high_ones(tmp_path, picture):
    deep = (picture.astype(np.uint16) << 8) + 200
    cv2.imwrite(str(tmp_path / 'deep.png'), deep[..., ::-1])
    assert np.array_equal(loaded(tmp_path / 'deep.png'), picture)
    for name in ('grey.png', 'grey.tiff'):
        cv2.imwrite(str(tmp_path / name), deep[..., 0])
        assert np.array_equal(loaded(tmp_path / name), picture[..., [0, 0, 0]])


def test_grey_becomes_three_equal_channels(tmp_path, picture):
    Image.fromarray(picture[..., 0]).save(tmp_path / 'grey.png')
    assert np.array_equal(loaded(tmp_path / 'grey.png'), picture[..., [0, 0, 0]])


def test_alpha_is_dropped(tmp_path, picture):
    alpha = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / 'alpha.png')
    assert np.array_equal(loaded(tmp_path / 'alpha.png'), picture)


def test_palette_is_looked_up(tmp_path, picture):
    indexed = Image.fromarray(picture).quantize(16)
    indexed.save(tmp_path / 'palette.png')
    assert np.array_equal(loaded(tmp_path / 'palette.png'), np.asarray(indexed.convert('RGB')))


def test_cmyk_is_not_inverted(tmp_path, picture):
    """Photoshop's inverted inks, which PIL writes too: within JPEG's and rounding's error."""
    Image.fromarray(picture).convert('CMYK').save(tmp_path / 'inks.jpg', quality=95)
    assert np.abs(loaded(tmp_path / 'inks.jpg').astype(int) - picture).max() < 16
    with Image.open(tmp_path / 'inks.jpg') as image:
        reference = np.asarray(image.convert('RGB')).astype(int)
    assert np.abs(loaded(tmp_path / 'inks.jpg') - reference).max() <= 3


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(tmp_path, picture, orientation):
    """Boxes mean the picture as it is shown, which is what PIL's exif_transpose gives."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / 'turned.jpg'
    Image.fromarray(picture).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        shown, stored = np.asarray(ImageOps.exif_transpose(image)), np.asarray(image)
    assert loaded(path).shape == shown.shape
    assert np.abs(loaded(path).astype(int) - shown).max() <= 3
    as_stored = LoadReadableImage(color_type='color_ignore_orientation')
    result = as_stored.transform(dict(img_path=str(path)))
    assert result['img_shape'] == result['ori_shape'] == (48, 64)
    assert np.abs(result['img'][..., ::-1].astype(int) - stored).max() <= 3


def unreadable(picture: ndarray) -> dict[str, bytes]:
    """Files by name."""
    noisy = picture ^ np.random.default_rng(0).integers(0, 64, picture.shape, dtype=np.uint8)
    jpeg = encoded(Image.fromarray(noisy), 'JPEG')
    progressive = encoded(Image.fromarray(noisy), 'JPEG', progressive=True)
    png = encoded(Image.fromarray(noisy), 'PNG')
    return {
        'half.jpg': jpeg[: len(jpeg) // 2],
        'short_of_its_end.jpg': jpeg[:-40],
        'progressive.jpg': progressive[: len(progressive) * 2 // 3],
        'zeros.jpg': jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2),
        'half.png': png[: len(png) // 2],
        'text.jpg': b'<html>404 Not Found</html>',
        'empty.jpg': b'',
    }


def test_unreadable_images_are_named(tmp_path, picture):
    for name, content in unreadable(picture).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f'{name} is missing, damaged or not an image'):
            loaded(tmp_path / name)
    with pytest.raises(ValueError, match='nowhere.jpg is missing, damaged or not an image'):
        loaded(tmp_path / 'nowhere.jpg')


def test_unknown_answer_to_an_error():
    with pytest.raises(ValueError, match="not 'ignore'"):
        LoadReadableImage(on_error='ignore')


@pytest.fixture
def log():
    """Messages of mmengine's current logger."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = MMLogger.get_current_instance(), Keep()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def mixed(tmp_path, picture, **options) -> BaseDataset:
    """Data set of one good image and all the unreadable ones."""
    files = {'good.png': encoded(Image.fromarray(picture), 'PNG')} | unreadable(picture)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    annotations = dict(metainfo={}, data_list=[dict(img_path=name) for name in files])
    (tmp_path / 'ann.json').write_text(json.dumps(annotations))
    return BaseDataset(
        'ann.json',
        data_root=str(tmp_path),
        pipeline=[dict(type='LoadReadableImage', on_error='skip')],
        **options,
    )


def test_skipping_goes_on_with_another_image_and_counts_each_file_once(tmp_path, picture, log):
    data = mixed(tmp_path, picture)
    for _ in range(2):
        names = {data[index]['img_path'] for index in range(len(data))}
        assert names == {str(tmp_path / 'good.png')}
    skipped = [message for message in log if 'is skipped' in message]
    assert len(skipped) == len(unreadable(picture))
    assert 'half.jpg is missing, damaged or not an image, and is skipped (1 so far' in skipped[0]
    assert f'({len(skipped)} so far by data worker 0)' in skipped[-1]


def test_an_epoch_of_workers_survives(tmp_path, picture):
    data = mixed(tmp_path, picture)
    loader = DataLoader(data, batch_size=None, num_workers=2)
    assert len(list(loader)) == len(data)


def test_evaluation_never_skips(tmp_path, picture, log):
    data = mixed(tmp_path, picture, test_mode=True)
    data[0]
    with pytest.raises(Exception, match='should not get `None`'):
        data[1]
    assert 'half.jpg' in log[-1]
