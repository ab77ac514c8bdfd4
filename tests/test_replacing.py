import pytest

from castling_det.replacing import replacing


def test_file_appears_when_all_is_written(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    with replacing(path) as unfinished:
        unfinished.write_text('one')
        assert not path.exists()
    assert path.read_text() == 'one'
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_writing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:
        unfinished.write_text('ne')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]
