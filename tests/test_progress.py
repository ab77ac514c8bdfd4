"""A word on what takes long, with the time that is left, and none on what does not."""

import pytest

from castling_det import progress
from castling_det.progress import tracked, under_way


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in seconds, that a test moves on."""
    now = [100.0]
    monkeypatch.setattr(progress, 'monotonic', lambda: now[0])
    return now


@pytest.fixture
def said(monkeypatch) -> list[str]:
    words = []
    monkeypatch.setattr(progress, 'print_log', lambda message, logger: words.append(message))
    return words


def work_through(items: list, seconds: float, clock: list[float]) -> list:
    done = []
    for item in tracked(iter(items), len(items), 'images read'):
        done.append(item)
        clock[0] += seconds
    return done


def test_words_come_after_3_seconds_and_then_each_time_after_twice_as_long(clock, said):
    items = list(range(25))
    assert work_through(items, 1, clock) == items
    assert said == [
        '3 of 25 images read, eta: 0:00:22',
        '9 of 25 images read, eta: 0:00:16',
        '21 of 25 images read, eta: 0:00:04',
    ]


def test_what_is_quick_is_silent(clock, said):
    assert work_through([1, 2, 3], 0.9, clock) == [1, 2, 3]
    assert work_through([], 5, clock) == []
    assert said == []


def test_words_go_on_while_the_end_is_not_known(monkeypatch, said):
    monkeypatch.setattr(progress, 'PATIENCE', 0.001)
    with under_way('Recording'):
        while len(said) < 3:
            pass
    assert said[0] == 'Recording' and said[1] == 'Recording: 0 s so far'
    before = len(said)
    with pytest.raises(ZeroDivisionError), under_way('Comparing'):
        1 / 0  # noqa: B018
    assert said[before] == 'Comparing'
