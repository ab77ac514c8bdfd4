import errno
import io
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from castling_det.checkpoint import read_checkpoint
from castling_det.hooks import SafeCheckpointHook


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.net(torch.stack(inputs)).square().mean())


def build_runner(work_dir, hook=None, **config):
    return Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(3))] * 2,
            batch_size=2,
            sampler=dict(type='DefaultSampler'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=5),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=1)
        ),
        custom_hooks=[hook] if hook else None,
        experiment_name=f'{work_dir.parent.name}_{work_dir.name}_{len(config)}',
        log_level='WARNING',
        **config,
    )


class DiskFullAt(Hook):
    """From an epoch on, a file takes half of what is written to it."""

    def __init__(self, monkeypatch, epoch, name):
        self.monkeypatch = monkeypatch
        self.epoch = epoch
        self.name = name

    def after_train_epoch(self, runner):
        if runner.epoch + 1 < self.epoch:
            return
        original = Path.open

        def open_full(path, mode='r'):
            file = original(path, mode)
            if not path.name.startswith(f'.unfinished-{self.name}'):
                return file
            file.close()
            return HalfFile(path, mode)

        self.monkeypatch.setattr(Path, 'open', open_full)


class HalfFile(io.FileIO):
    def write(self, content):
        super().write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('name', ['epoch_3.pth', 'last_checkpoint'])
def test_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, name):
    """Also with one checkpoint to keep, and when only the pointer to it cannot be written."""
    with pytest.raises(ValueError) as error:
        build_runner(tmp_path, DiskFullAt(monkeypatch, 3, name)).train()
    monkeypatch.undo()
    message = str(error.value)
    assert message.startswith(f'{tmp_path / name} cannot be written (No space left on device)')
    assert '\n' not in message and '--resume' in message
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_2.pth')
    assert read_checkpoint(tmp_path / 'epoch_2.pth')['meta']['epoch'] == 2
    assert not list(tmp_path.glob('.unfinished-*'))
    resumed = build_runner(tmp_path, resume=True)
    resumed.train()
    assert resumed.epoch == 5
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_5.pth']


@pytest.mark.parametrize('kept', [1, 2, 3, -1])
def test_keeps_as_many_as_mmengine(tmp_path, kept):
    hooks = {}
    for kind in ('CheckpointHook', 'SafeCheckpointHook'):
        runner = build_runner(tmp_path / kind)
        runner.hooks.clear()
        runner.register_hook(dict(type=kind, interval=1, max_keep_ckpts=kept), 'VERY_LOW')
        runner.train()
        hooks[kind] = sorted(path.name for path in (tmp_path / kind).glob('*.pth'))
    assert hooks['SafeCheckpointHook'] == hooks['CheckpointHook']
    assert len(hooks['SafeCheckpointHook']) == (5 if kept == -1 else kept)


class Watch(Hook):
    """Lists the checkpoints that there are whenever one is about to be written."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = []

    def before_save_checkpoint(self, runner, checkpoint):
        self.seen.append(sorted(path.name for path in self.folder.glob('*.pth')))


def test_the_old_one_is_there_while_the_new_one_is_written(tmp_path):
    watch = Watch(tmp_path)
    build_runner(tmp_path, watch).train()
    assert watch.seen == [[], *([f'epoch_{epoch}.pth'] for epoch in range(1, 5))]


def test_folder_that_cannot_be_written_stops_before_training(tmp_path):
    """A file in its place; a folder without permission would not stop root."""
    (tmp_path / 'out').write_text('')
    runner = build_runner(tmp_path / 'work')
    runner.hooks.clear()
    runner.register_hook(dict(type='SafeCheckpointHook', interval=1, out_dir=str(tmp_path / 'out')))
    with pytest.raises(ValueError, match=r'out/work cannot be written \(.*/out: Not a directory\)'):
        runner.train()
    assert runner.iter == 0


def test_registered_in_the_root_registry():
    assert HOOKS.get('SafeCheckpointHook') is SafeCheckpointHook
