"""What of a run appears on the console, and what in its log file alone."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from mmengine.logging import MMLogger, print_log

# How messages begin that tell a user nothing while all is well: they are in the log file.
FILE_ALONE = (
    '\n------------------------------------------------------------\nSystem environment:',
    'Config:\n',
    'Hooks will be executed in the following order:',
    'paramwise_options -- ',
    'Using env variable ',
    'Exp name: ',
    'Checkpoints will be saved to ',
    'Saving checkpoint at ',
    'Loads checkpoint by ',
    'Distributed training is not used, all SyncBatchNorm',
    # False alarms: of what nothing here needs, and of what the libraries do among themselves.
    'Could not import OneDL',
    'faster_coco_eval is not installed',
    'The prefix is not set in metric class ',
    'Because batch augmentations are enabled, the data preprocessor ',
    'Default ``avg_non_ignore`` is False',
    'DeprecationWarning: `num_anchors` is deprecated',
    'torch.meshgrid: in an upcoming release',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias of "LocalBackend"',
    # What pycocotools prints on its way.
    'loading annotations into memory...',
    'creating index...',
    'index created!',
    'Loading and preparing results...',
    'Evaluating bbox...',
    'Evaluating segm...',
    'Running per image evaluation...',
    'Evaluate annotation type ',
    'Accumulating evaluation results...',
    'Done (t=',
    'DONE (t=',
)
TABLE = ' Average '  # how the lines of pycocotools' table begin, which it prints


@contextmanager
def quiet_console() -> Iterator[None]:
    """Leave to the log file what :data:`FILE_ALONE` names, be it logged, printed or warned of.

    Everything else appears as always, errors whatever they say, and with ``log_level = 'DEBUG'``
    all of it. What is said before the log has a file is written there when it has one.
    """
    early: list[logging.LogRecord] = []
    hand_out, showwarning = MMLogger.callHandlers, warnings.showwarning

    def hand_out_quietly(logger: MMLogger, record: logging.LogRecord) -> None:
        """As mmengine does, but for the records of the file."""
        files = [each for each in logger.handlers if isinstance(each, logging.FileHandler)]
        early.extend(() if files else (record,))
        while files and early:
            if early[0].levelno >= files[0].level:
                files[0].handle(early[0])
            del early[0]
        for handler in logger.handlers:
            shows = handler in files or handler.level <= logging.DEBUG or not _is_hidden(record)
            if record.levelno >= handler.level and shows:
                handler.handle(record)

    def warn_quietly(message: Warning, *place: object) -> None:
        if str(message).startswith(FILE_ALONE):
            print_log(str(message), logger='current', level=logging.WARNING)
        else:
            showwarning(message, *place)

    with warnings.catch_warnings(), redirect_stdout(_Stdout(sys.stdout)):
        warnings.showwarning = warn_quietly
        MMLogger.callHandlers = hand_out_quietly
        try:
            yield
        finally:
            MMLogger.callHandlers = hand_out


class _Stdout:
    """A stream that leaves to the log what libraries print of :data:`FILE_ALONE`, or as a table."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.drops_newline = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if text.startswith((*FILE_ALONE, TABLE)):
            print_log(text, logger='current')
        elif not (self.drops_newline and text == '\n'):
            self.stream.write(text)
        self.drops_newline = text.startswith((*FILE_ALONE, TABLE))  # print writes it apart
        return len(text)


def _is_hidden(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR and record.getMessage().startswith(FILE_ALONE)
