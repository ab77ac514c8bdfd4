"""``castling-det VERB``, and other people's tools in a process that knows this package."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from castling_det.__main__ import VERBS, main

LEAF = 'castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'


def test_a_tool_of_mmdet_reads_a_config_with_our_base(tmp_path):
    """It imports mmdet alone; bases are read before ``custom_imports``."""
    (tmp_path / 'mine.py').write_text(f"_base_ = ['castling_det::{LEAF}']\nmax_epochs = 7\n")
    (mmdet,) = find_spec('mmdet').submodule_search_locations
    tool = Path(mmdet) / '.mim' / 'tools' / 'misc' / 'print_config.py'
    command = [sys.executable, '-m', 'castling_det', tool, 'mine.py']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'CastlingLeViT' in done.stdout and 'max_epochs = 7' in done.stdout


@pytest.mark.parametrize('words', [['tools/tool.py'], ['-m', 'tool']], ids=['script', 'module'])
def test_tool_runs_as_by_python_itself(tmp_path, monkeypatch, capsys, words):
    folder = tmp_path / 'tools'
    folder.mkdir()
    (folder / 'beside.py').write_text('NAME = "beside"')
    (folder / 'tool.py').write_text(
        'import sys\nfrom beside import NAME\nprint(__name__, NAME, sys.argv[1:])'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', ['', *sys.path] if '-m' not in words else [*sys.path])
    if '-m' in words:
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, 'argv', ['castling_det', *words, '--flag', 'a b'])
    main()
    assert capsys.readouterr().out == "__main__ beside ['--flag', 'a b']\n"


def test_ctrl_c_is_no_fault(tmp_path, monkeypatch, capsys):
    (tmp_path / 'tool.py').write_text('raise KeyboardInterrupt')
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setattr(sys, 'argv', ['castling_det', str(tmp_path / 'tool.py')])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130 and capsys.readouterr().err == 'stopped\n'


@pytest.mark.parametrize('verb', VERBS)
def test_every_tool_is_a_verb_with_help(monkeypatch, capsys, verb):
    tools = {path.stem for path in (Path(__file__).parents[1] / 'tools').glob('*.py')}
    assert set(VERBS.values()) == tools and len(VERBS) == len(tools)
    monkeypatch.setattr(sys, 'argv', ['/bin/castling-det', verb, '--help'])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert f'usage: castling-det {verb} [-h]' in capsys.readouterr().out


def test_verbs_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['castling-det'])
    main()
    printed = capsys.readouterr().out
    assert printed.startswith('usage: castling-det COMMAND ARGS')
    assert re.search(
        '^  check  +Check the data sets of a config, every image decoded$', printed, re.M
    )
    assert all(f'\n  {verb} ' in printed for verb in VERBS)


def test_arguments_reach_the_tool(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'argv', ['castling-det', 'check', str(tmp_path / 'no.py')])
    with pytest.raises(SystemExit, match=f'error: config {tmp_path}/no.py does not exist'):
        main()


@pytest.mark.parametrize('words', [['no.py'], ['trian', 'my_config.py']])
def test_what_cannot_be_run(monkeypatch, words):
    monkeypatch.setattr(sys, 'argv', ['castling_det', *words])
    with pytest.raises(SystemExit, match=f'no file {words[0]} and no such command'):
        main()
