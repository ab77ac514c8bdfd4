"""How far what takes long is, said in the log."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from time import monotonic
from typing import TypeVar

from mmengine.logging import print_log

PATIENCE = 3  # seconds until the first word
Item = TypeVar('Item')


class Patience:
    """When the next word is due: after 3 s, then each time after twice as long."""

    def __init__(self) -> None:
        self.seconds = PATIENCE
        self.begin()

    def is_over(self) -> bool:
        """Whether the time has come; the next wait begins then."""
        if monotonic() - self.said < self.seconds:
            return False
        self.seconds = 2 * self.seconds
        self.begin()
        return True

    def begin(self) -> None:
        """Wait from now on, as where another has just said how far it is."""
        self.said = monotonic()


def tracked(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Iterate; what takes long says how far it is, and how long the rest will take.

    Args:
        items (Iterable): Each is worked on before the next one is asked for.
        total (int): How many they are.
        what (str): Is done to them, as 'images read'.
    """
    start, patience = monotonic(), Patience()
    for done, item in enumerate(items):
        if done and patience.is_over():
            left = timedelta(seconds=round((monotonic() - start) / done * (total - done)))
            print_log(f'{done} of {total} {what}, eta: {left}', logger='current')
        yield item


@contextmanager
def under_way(what: str) -> Iterator[None]:
    """Say what is being done, and while it goes on for how long, where nobody knows the end.

    Args:
        what (str): As 'Recording the network'.
    """
    start, is_done = monotonic(), Event()

    def go_on() -> None:
        seconds = PATIENCE
        while not is_done.wait(seconds):
            print_log(f'{what}: {round(monotonic() - start)} s so far', logger='current')
            seconds = 2 * seconds

    print_log(what, logger='current')
    thread = Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
