"""Images and videos as a source of frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from castling_det.errors import InputError
from castling_det.inference.frames import ImageFiles, VideoFile, open_frames


def write_video(path: Path, brightness: list[int], frame_rate: float = 5) -> None:
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(str(path), codec, frame_rate, (48, 32))
    for value in brightness:
        video.write(np.full((32, 48, 3), value, np.uint8))
    video.release()


def test_folder_gives_its_images_in_order_and_names_the_unreadable(tmp_path):
    for name, value in (('b.png', 20), ('a.PNG', 10)):
        cv2.imwrite(str(tmp_path / name), np.full((4, 6, 3), value, np.uint8))
    (tmp_path / 'c.jpg').write_text('not an image')
    (tmp_path / 'notes.txt').write_text('not looked at')
    frames = open_frames(tmp_path)
    seen = list(frames)
    assert [(frame.file.name, frame.number, frame.image[0, 0, 0]) for frame in seen] == [
        ('a.PNG', None, 10),
        ('b.png', None, 20),
    ]
    assert [file.name for file in frames.unreadable] == ['c.jpg']
    assert len(frames) == 3
    list(frames)
    assert len(frames.unreadable) == 1


def test_grey_image_comes_as_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((4, 6), 7, np.uint8))
    (frame,) = open_frames(tmp_path / 'a.png')
    assert frame.image.shape == (4, 6, 3) and (frame.image == 7).all()


def test_video_gives_numbered_frames_as_often_as_asked(tmp_path):
    write_video(tmp_path / 'a.avi', [40, 120, 200])
    frames = open_frames(tmp_path / 'a.avi')
    assert isinstance(frames, VideoFile)
    assert (len(frames), frames.frame_rate) == (3, 5)
    for _ in range(2):
        seen = list(frames)
        assert [frame.number for frame in seen] == [0, 1, 2]
        assert [frame.image.shape for frame in seen] == [(32, 48, 3)] * 3
        assert np.allclose([frame.image.mean() for frame in seen], [40, 120, 200], atol=3)


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(InputError, match='no.jpg does not exist'):
        open_frames(tmp_path / 'no.jpg')
    with pytest.raises(InputError, match=f'{tmp_path} holds no image'):
        open_frames(tmp_path)
    (tmp_path / 'a.mp4').write_text('no video')
    with pytest.raises(ValueError, match='a.mp4 is damaged or not a video'):
        open_frames(tmp_path / 'a.mp4')


def test_any_other_file_is_tried_as_an_image(tmp_path):
    path = tmp_path / 'upload'
    path.write_bytes(cv2.imencode('.png', np.zeros((3, 5, 3), np.uint8))[1].tobytes())
    frames = open_frames(path)
    assert isinstance(frames, ImageFiles)
    assert next(iter(frames)).image.shape == (3, 5, 3)


def test_image_too_large_for_memory_is_left_out_by_its_header(tmp_path, large_image):
    cv2.imwrite(str(tmp_path / 'b.png'), np.zeros((4, 6, 3), np.uint8))
    frames = open_frames(tmp_path)
    assert [frame.file.name for frame in frames] == ['b.png']
    (reason,) = frames.unreadable.values()
    assert reason == 'Image size (900000000 pixels) exceeds limit of 178956970 pixels'


def test_image_that_pillow_alone_refuses_is_read(tmp_path):
    """For a text of more than 1 MiB in a PNG."""
    text = PngInfo()
    text.add_text('parameters', 'x' * 2**21, zip=True)
    Image.new('RGB', (6, 4), (1, 2, 3)).save(tmp_path / 'a.png', pnginfo=text)
    with pytest.raises(ValueError, match='too large'):
        Image.open(tmp_path / 'a.png')
    (frame,) = open_frames(tmp_path / 'a.png')
    assert frame.image[0, 0].tolist() == [1, 2, 3]
