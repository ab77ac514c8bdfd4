import os
from pathlib import Path

import pytest

from castling_det.errors import InputError
from castling_det.output_files import atomic_write, require_place, require_writable, write_whole


def test_file_is_replaced_whole(tmp_path):
    path = tmp_path / 'a'
    for content in (b'first', b'second, which is longer', b''):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_cannot_be_renamed_is_left(tmp_path):
    (tmp_path / 'a').mkdir()
    with pytest.raises(ValueError, match=r'/a cannot be written \(Is a directory\)'):
        write_whole(tmp_path / 'a', b'content')
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_full_device(tmp_path):
    """The kernel's own refusal: /dev/full takes nothing."""
    (tmp_path / 'a').write_text('before')
    (tmp_path / f'.unfinished-{os.getpid()}-a').symlink_to('/dev/full')
    with pytest.raises(ValueError, match=r'/a cannot be written \(No space left on device\)'):
        write_whole(tmp_path / 'a', b'content')
    assert (tmp_path / 'a').read_text() == 'before'
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_writable_folder_is_really_tried(tmp_path, monkeypatch):
    """The rights of root are no proof: a kernel's file system takes no files."""
    monkeypatch.setattr('os.access', lambda *_, **__: True)
    require_writable(tmp_path / 'a' / 'b')
    assert not list(tmp_path.iterdir())
    (tmp_path / 'file').write_text('')
    for folder, nearest in ((tmp_path / 'file' / 'b', 'file'), ('/proc/x', '/proc')):
        with pytest.raises(InputError, match=f'^{folder} cannot be .*{nearest}: .+--work-dir$'):
            require_writable(folder)


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    require_place(tmp_path / 'new' / 'a.json', '--out')
    with pytest.raises(InputError, match='--plot .* is a folder: give the name of a file'):
        require_place(tmp_path, '--plot')


def test_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave an empty file under it, the old one being gone."""
    path, steps = tmp_path / 'a.pth', []
    synchronise, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, 'fsync', lambda fd: steps.append(os.fstat(fd).st_size) or synchronise(fd)
    )
    monkeypatch.setattr(
        Path, 'replace', lambda self, to: steps.append(Path(to).name) or replace(self, to)
    )
    write_whole(path, b'12345')
    assert steps == [5, 'a.pth'] and path.read_bytes() == b'12345'


def test_file_appears_when_all_is_written(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    with atomic_write(path) as unfinished:
        unfinished.write_text('one')
        assert not path.exists()
    assert path.read_text() == 'one'
    assert list(path.parent.iterdir()) == [path]


def test_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    for path, reason in (('file/a.txt', 'File exists'), ('file/b/a.txt', 'Not a directory')):
        said = rf'/{path} cannot be written \({reason}\): make room, or choose another folder'
        with pytest.raises(InputError, match=said), atomic_write(tmp_path / path) as unfinished:
            unfinished.write_text('content')


def test_interrupted_writing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as unfinished:
        unfinished.write_text('ne')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]
