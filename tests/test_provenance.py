"""The commit that files and numbers name is that of this code, or unknown."""

import shutil
import subprocess
from pathlib import Path

import pytest

from castling_det import provenance
from castling_det.provenance import source_commit

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='no git repository')
def test_commit_is_that_of_the_repository():
    head = subprocess.check_output(['git', 'rev-parse', 'HEAD'], cwd=ROOT, text=True)
    assert head.startswith(source_commit().removesuffix('-dirty'))


@pytest.mark.skipif(shutil.which('git') is None, reason='no git')
def test_commit_of_another_repository_is_not_ours(tmp_path, monkeypatch):
    package = tmp_path / 'site-packages' / 'castling_det'
    package.mkdir(parents=True)
    for words in (
        ['init'],
        ['-c', 'user.name=a', '-c', 'user.email=b', 'commit', '--allow-empty', '-m', 'c'],
    ):
        subprocess.run(['git', *words], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(provenance, 'PACKAGE', package)
    assert source_commit() == 'unknown'
    monkeypatch.setattr(provenance, 'PACKAGE', tmp_path / 'site-packages')
    assert source_commit() != 'unknown'


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert source_commit() == 'unknown'
