import runpy
from pathlib import Path

import model_zoo
import pytest
import torch
from model_zoo import stale_files

from castling_det.analysis.complexity import Complexity, count_complexity
from castling_det.models import CastlingLeViT

TOOL = Path(__file__).parents[2] / 'tools' / 'studies' / 'update_tables.py'
LEAF = """
default_scope = 'mmdet'
model = dict(type='CastlingLeViT', arch='nano', attn=dict(type='{attn}'))
"""
METAFILE = """
Models:
  - Name: ours
    Config: configs/family/ours_nano_1xb2-3e_toy-32x64.py
    Metadata: {Seed: 7, Commit: '1234567', Hardware: one core}
    Results:
      - {Task: Object Detection, Dataset: toy, Metrics: {box AP: 12.5}}
      - {Task: Instance Segmentation, Dataset: toy, Metrics: {mask AP: 10.5}}
  - Name: theirs
    Config: configs/family/theirs_nano_1xb2-3e_toy-32x64.py
    Metadata: {Source: their README}
    Results:
      - {Task: Object Detection, Dataset: toy, Metrics: {box AP: 20.0}}
  - Name: bare
    Config: configs/family/ours_nano_1xb2-3e_other-32x32.py
"""
OVERVIEW = """# Configs

<!-- table all -->
stale
<!-- end -->
after it
"""
FAMILY = """# Family

<!-- table toy -->
<!-- end -->

<!-- table other -->
<!-- end -->
"""


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """Three leaves of one folder: measured here, quoted, not run."""
    folder = tmp_path / 'configs'
    (folder / '_base_').mkdir(parents=True)
    (folder / '_base_' / 'runtime.py').write_text('')
    (folder / 'family').mkdir()
    for name, attn in {
        'ours_nano_1xb2-3e_toy-32x64': 'CastlingAttention',
        'theirs_nano_1xb2-3e_toy-32x64': 'SoftmaxAttention',
        'ours_nano_1xb2-3e_other-32x32': 'CastlingAttention',
    }.items():
        (folder / 'family' / f'{name}.py').write_text(LEAF.format(attn=attn))
    (folder / 'family' / 'metafile.yml').write_text(METAFILE)
    (folder / 'family' / 'README.md').write_text(FAMILY)
    (folder / 'README.md').write_text(OVERVIEW)
    return folder


def counts(attn: str, height: int, width: int) -> str:
    model = CastlingLeViT('nano', dict(type=attn))
    complexity = count_complexity(model, torch.zeros(1, 3, height, width))
    return f'{complexity.params / 1e6:.2f} | {complexity.macs / 1e9:.3f}'


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_tables_say_what_configs_and_metafile_say(configs):
    ours, theirs = counts('CastlingAttention', 32, 64), counts('SoftmaxAttention', 32, 64)
    other = counts('CastlingAttention', 32, 32)
    stem, measured = 'nano_1xb2-3e_toy-32x64', '*measured here*: seed 7, commit 1234567'
    fresh = stale_files(configs, recount=True)
    assert fresh[configs / 'README.md'].splitlines() == [
        '# Configs',
        '',
        '<!-- table all -->',
        '| config | task | params M | MACs G | metric | status |',
        '| --- | --- | --- | --- | --- | --- |',
        '| [ours_nano_1xb2-3e_other-32x32](family/ours_nano_1xb2-3e_other-32x32.py) | detection'
        f' | {other} |  | *not run* |',
        f'| [ours_{stem}](family/ours_{stem}.py) | detection | {ours} | box AP 12.5 | {measured} |',
        f'| [theirs_{stem}](family/theirs_{stem}.py) | detection | {theirs} | box AP 20.0'
        ' | *quoted*: their README |',
        '<!-- end -->',
        'after it',
    ]
    assert fresh[configs / 'family' / 'README.md'].splitlines() == [
        '# Family',
        '',
        '<!-- table toy -->',
        '| config | input | params M | MACs G | box AP | mask AP | status |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        f'| [ours_nano](ours_{stem}.py) | 32x64 | {ours} | 12.5 | 10.5 | {measured} |',
        f'| [theirs_nano](theirs_{stem}.py) | 32x64 | {theirs} | 20.0 | '
        ' | *quoted*: their README |',
        '<!-- end -->',
        '',
        '<!-- table other -->',
        '| config | input | params M | MACs G | status |',
        '| --- | --- | --- | --- | --- |',
        f'| [ours_nano](ours_nano_1xb2-3e_other-32x32.py) | 32x32 | {other} | *not run* |',
        '<!-- end -->',
    ]


def test_tool_writes_what_is_stale_and_checks_it(configs, monkeypatch, capsys):
    tool = configs.parent / 'tools' / 'studies' / TOOL.name
    tool.parent.mkdir(parents=True)
    tool.write_text(TOOL.read_text())

    def run(*arguments: str) -> str:
        monkeypatch.setattr('sys.argv', [TOOL.name, *arguments])
        runpy.run_path(str(tool), run_name='__main__')
        return capsys.readouterr().out

    before = (configs / 'README.md').read_text()
    with pytest.raises(SystemExit, match='error: stale tables in configs/README.md, .*: run `'):
        run('--check')
    assert (configs / 'README.md').read_text() == before
    assert 'wrote configs/README.md\nwrote configs/family/README.md\n' in run()
    assert 'wrote' not in run('--check') + run()
    assert len(list(configs.glob('**/*README.md'))) == 2

    replace(configs / 'family' / 'metafile.yml', 'mask AP: 10.5', 'mask AP: 10.6')
    assert list(stale_files(configs, recount=False)) == [configs / 'family' / 'README.md']


def test_only_what_changed_is_counted_again(configs, monkeypatch):
    for path, text in stale_files(configs, recount=True).items():
        path.write_text(text)
    counted = []
    monkeypatch.setattr(
        model_zoo, 'count_config', lambda cfg, shape: counted.append(shape) or Complexity(9, 9)
    )
    assert not stale_files(configs, recount=False) and not counted
    replace(configs / 'family' / 'ours_nano_1xb2-3e_other-32x32.py', 'CastlingAtt', 'SoftmaxAtt')
    stale = stale_files(configs, recount=False)
    assert counted == [(32, 32)] and len(stale) == 3
    stale_files(configs, recount=True)
    assert len(counted) == 4


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'message'),
    [
        ('family/README.md', 'other', 'cifar', "README.md: there is nothing .* table 'cifar'"),
        ('README.md', '<!-- end -->', '', 'README.md: a table lacks its <!-- end -->'),
        ('family/metafile.yml', 'Seed: 7, ', '', 'metafile.yml: ours has Results, .* lack Seed '),
        ('family/metafile.yml', "'1234567'", '1234567', 'ours: put the Commit in quotes'),
        ('family/metafile.yml', 'theirs_nano', 'gone_nano', 'no such config: gone_nano_1xb2'),
    ],
)
def test_contradictions_are_named(configs, file, old, new, message):
    replace(configs / file, old, new)
    with pytest.raises(ValueError, match=message):
        stale_files(configs, recount=False)


def test_a_name_against_the_rule_is_named(configs):
    (configs / 'family' / 'my_config.py').write_text('')
    with pytest.raises(ValueError, match='my_config.py: the name does not follow the rule'):
        stale_files(configs, recount=False)
