"""What is noise goes to the log file alone, and whatever may matter to the console as well."""

import sys
import warnings
from collections import OrderedDict

import pytest
from mmengine.logging import MMLogger, print_log

from castling_det.engine.console import quiet_console


@pytest.fixture
def said(tmp_path, capsys, monkeypatch):
    """What a run says on the console and in its log file; other tests' loggers are not there."""
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())

    def said(level: str = 'INFO') -> tuple[str, str]:
        with quiet_console():
            print('Could not import OneDL')
            early = MMLogger('early')
            early.info('Using env variable `HOME`')
            early.info('205 images')
            early.debug('not for a file of this level')
            logger = MMLogger.get_instance('run', log_file=str(tmp_path / 'log'), log_level=level)
            logger.info('Config:\nmodel = dict()')
            logger.warning('"FileClient" will be deprecated in future.')
            logger.warning('the learning rate is planned for another length')
            logger.error('Config:\ncannot be read')
            print_log('Epoch(train) [1][50/205]', logger='current')
            print('creating index...')
            print('of the user', 'himself')
            print(' Average Precision  (AP) @[ IoU=0.50:0.95 ] = 0.4')
            warnings.warn('faster_coco_eval is not installed', stacklevel=1)
            warnings.warn('of the user', DeprecationWarning, stacklevel=1)
        shown = capsys.readouterr()
        return shown.out + shown.err, (tmp_path / 'log').read_text()

    return said


NOISE = ('OneDL', 'HOME', 'model = dict()', 'FileClient', 'creating index', 'faster_coco_eval')
NEWS = ('205 images', 'another length', 'cannot be read', 'Epoch(train) [1][50/205]', 'Precision')


def test_noise_is_in_the_file_alone(said, monkeypatch):
    monkeypatch.setattr(warnings, 'showwarning', lambda message, *place: print(message))
    console, file = said()
    assert [word for word in NOISE if word in console] == []
    assert [word for word in (*NOISE, *NEWS) if word not in file] == []
    assert [word for word in (*NEWS, 'of the user himself\n') if word not in console] == []
    assert console.count('of the user') == 2  # the warning too
    assert '\n\n' not in console  # the ends of lines that went to the file
    assert 'not for a file' not in file


def test_the_console_of_a_debugging_user_has_all_of_it(said):
    console, _ = said('DEBUG')
    assert 'model = dict()' in console and 'FileClient' in console


def test_all_is_as_before_afterwards(capsys):
    hand_out, stdout = MMLogger.callHandlers, sys.stdout
    with pytest.raises(ZeroDivisionError), quiet_console():
        assert MMLogger.callHandlers is not hand_out
        1 / 0  # noqa: B018
    assert MMLogger.callHandlers is hand_out and sys.stdout is stdout
    print('creating index...')
    assert capsys.readouterr().out == 'creating index...\n'
