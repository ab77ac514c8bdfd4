import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.runner import Runner

from castling_det.engine.cli import (
    add_config_arguments,
    add_run_arguments,
    add_trackers,
    errors_in_one_sentence,
    load_config,
    load_run_config,
)

DEMO = 'castling_det::castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'


@pytest.fixture
def write(tmp_path):
    """Write a config file, and return its path."""

    def write(text: str, name: str = 'leaf.py') -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def sentence(config: Path, options: dict | None = None) -> str:
    with pytest.raises(SystemExit) as left, errors_in_one_sentence():
        load_config(config, options)
    assert '\n' not in left.value.code
    return left.value.code


def test_missing_config(tmp_path):
    assert sentence(tmp_path / 'no.py') == f'error: config {tmp_path}/no.py does not exist'


def test_syntax_error_is_found_by_its_line(write):
    base = write('a = 1\nb = (', 'base.py')
    leaf = write("_base_ = 'base.py'")
    for config in (base, leaf):
        found = sentence(config)
        assert f'config {config}, or a base of it: line 2, ' in found
        assert found.endswith("'b = (': '(' was never closed")


def test_missing_base(write, tmp_path):
    leaf = write("_base_ = ['nowhere.py']")
    assert f'config {leaf} cannot be read: ' in sentence(leaf)
    assert 'nowhere.py' in sentence(leaf)


def test_dict_over_a_value_of_the_base(write):
    write('a = dict(b=1)', 'base.py')
    leaf = write("_base_ = ['base.py']\na = dict(b=dict(c=1))")
    assert f'{leaf} cannot be read: b=' in sentence(leaf) and '_delete_=True' in sentence(leaf)


@pytest.mark.parametrize(
    ('faulty', 'reason'),
    [
        ('a = 1\nb = nmu_classes', "NameError: name 'nmu_classes' is not defined"),
        ('a = dict()\nb = a["size"]', "KeyError: 'size'"),
        ('a = (1, 2)\nb = a.sides', "AttributeError: 'tuple' object has no attribute 'sides'"),
        ('a = "x"\nb = int(a)', "ValueError: invalid literal for int() with base 10: 'x'"),
    ],
)
def test_what_a_config_raises_is_found_by_its_line(write, faulty, reason):
    base = write(faulty, 'base.py')
    leaf = write("_base_ = 'base.py'")
    for config in (base, leaf):
        said = f'error: config {config} cannot be read: base.py, line 2: {reason}'
        assert sentence(config) == said


def test_what_mmengine_does_not_read_is_refused_with_the_file(write, tmp_path):
    write('a = 1', 'one.py'), write('a = 2', 'two.py')
    twice = write("_base_ = ['one.py', 'two.py']")
    assert f'{twice} cannot be read: ' in sentence(twice) and "keys: {'a'}" in sentence(twice)
    (tmp_path / 'latin.py').write_bytes('# Café'.encode('latin-1'))
    assert "latin.py cannot be read: 'utf-8' codec" in sentence(tmp_path / 'latin.py')


def test_custom_import_that_does_not_exist(write):
    leaf = write("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)")
    assert sentence(leaf).endswith("cannot be read: No module named 'no_such_module'")


def test_programming_error_of_a_custom_import_keeps_its_traceback(write, monkeypatch):
    write('1 / 0', 'faulty_module_of_a_test.py')
    leaf = write("custom_imports = dict(imports=['faulty_module_of_a_test'])")
    monkeypatch.syspath_prepend(leaf.parent)
    with pytest.raises(ZeroDivisionError), errors_in_one_sentence():
        load_config(leaf)


def test_options_are_merged(write):
    cfg = load_config(write(f"_base_ = '{DEMO}'"), {'optim_wrapper.optimizer.lr': 1.0})
    assert isinstance(cfg, Config) and cfg.optim_wrapper.optimizer.lr == 1


def test_options_that_lead_nowhere_are_refused(write):
    text = sentence(write(f"_base_ = '{DEMO}'"), {'optimizer.lr': 1.0})
    assert text.startswith("error: --cfg-options optimizer.lr: the config has no 'optimizer'")


def run_config(config: Path, *words: str) -> Config:
    """What a tool with a Runner makes of its command line."""
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    add_run_arguments(parser)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', os.environ.get('LOCAL_RANK', '0'))  # which stays set otherwise
        return load_run_config(parser.parse_args([str(config), *words]))


def test_text_where_a_number_is_counted_with(write):
    options = ['--cfg-options', 'train_dataloader.batch_size=abc']
    with pytest.raises(SystemExit) as left, errors_in_one_sentence():
        run_config(write(f"_base_ = '{DEMO}'"), *options)
    assert left.value.code.startswith("error: train_dataloader.batch_size is 'abc': write a whole")


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_no_workers(write, split):
    """torch refuses, without any, what configs say for workers."""
    leaf = write(f"_base_ = '{DEMO}'\n{split}_dataloader = dict(prefetch_factor=4)")
    loader = run_config(leaf)[f'{split}_dataloader']
    assert loader.persistent_workers and loader.num_workers > 0
    cfg = run_config(leaf, '--cfg-options', f'{split}_dataloader.num_workers=0')
    loader = dict(cfg[f'{split}_dataloader'], dataset=[0] * 4)
    assert Runner.build_dataloader(loader).num_workers == 0


def test_work_dir_of_the_command_line_of_the_config_and_of_its_name(write, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '3')

    plain, own = write('a = 1', 'plain.py'), write("work_dir = 'own'", 'own.py')
    assert run_config(plain).work_dir == 'work_dirs/plain'
    assert run_config(own).work_dir == 'own'
    assert run_config(own, '--work-dir', 'given').work_dir == 'given'
    assert os.environ['LOCAL_RANK'] == '3'


def test_trackers_come_beside_the_log(write):
    cfg = load_config(write(f"_base_ = '{DEMO}'"))
    add_trackers(cfg, [])
    assert [each.type for each in cfg.visualizer.vis_backends] == ['LocalVisBackend']
    add_trackers(cfg, ['tensorboard', 'wandb'])
    names = ['LocalVisBackend', 'TensorboardVisBackend', 'WandbVisBackend']
    assert [each.type for each in cfg.visualizer.vis_backends] == names
    bare = Config()
    add_trackers(bare, ['wandb'])
    assert [each.type for each in bare.visualizer.vis_backends] == names[::2]


def test_tensorboard_has_the_scalars_and_pictures_of_the_log(write, tmp_path):
    pytest.importorskip('tensorboard', reason='the extra tensorboard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = load_config(write(f"_base_ = '{DEMO}'"))
    add_trackers(cfg, ['tensorboard'])
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name='tracked', save_dir=str(tmp_path)))
    scalars = {'loss': 0.5, 'nonzeros/backbone.blocks.0.attn': 0.25}
    visualizer.add_config(cfg)
    visualizer.add_scalars(scalars, step=7)
    visualizer.add_image('val', np.zeros((4, 6, 3), np.uint8), step=7)
    visualizer.close()
    logged = json.loads((tmp_path / 'vis_data' / 'scalars.json').read_text())
    assert logged == dict(scalars, step=7)
    (events,) = (tmp_path / 'vis_data').glob('events.out.tfevents.*')
    found = EventAccumulator(str(events)).Reload()
    for name, value in scalars.items():
        (event,) = found.Scalars(name)
        assert (event.step, event.value) == (7, value)
    (image,) = found.Images('val')
    assert (image.step, image.height, image.width) == (7, 4, 6)


@pytest.mark.parametrize(
    ('tool', 'words', 'option', 'path'),
    [
        ('image_demo', ['--checkpoint', 'no.pth'], '--out-dir', 'file'),
        ('browse_dataset', [], '--out-dir', 'file/drawn'),
        ('export_onnx', ['no.pth'], '--out', 'file/model.onnx'),
        ('benchmark_latency', [], '--plot', 'file/plot.png'),
    ],
)
def test_where_nothing_can_be_written_is_told_before_the_work(
    refusal, tmp_path, tool, words, option, path
):
    file = tmp_path / 'file'
    file.write_text('')
    said = refusal(tool, file, *words, option, tmp_path / path)
    assert said.startswith(f'error: {file}')
    assert said.endswith(f'cannot be written ({file}: Not a directory): choose another {option}')


def test_ctrl_c_is_no_fault(capsys):
    with pytest.raises(SystemExit) as left, errors_in_one_sentence():
        raise KeyboardInterrupt
    assert left.value.code == 130 and capsys.readouterr().err == 'stopped\n'
