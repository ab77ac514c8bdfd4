import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.data_preprocessors import BatchSyncRandomResize
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import BatchSampler, Dataset

from castling_det.checkpoint import read_checkpoint, refuse_unsafe_checkpoints
from castling_det.hooks import ResumeHook
from castling_det.hooks.resume_hook import seed_everything

MAX_ITERS = 18  # three epochs of six batches, the last of them smaller


class Toy(BaseModel):
    """Random in its forward and in the size of its batches; the norm and the average remember."""

    def __init__(self):
        super().__init__()
        self.resize = BatchSyncRandomResize((8, 16), interval=1, size_divisor=4)
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs, mode='tensor'):
        images, _ = self.resize(torch.stack(inputs), [])
        noisy = self.conv(images + random.random() + np.random.rand())
        return dict(loss=(self.head(noisy.mean((2, 3))) - 1).square().mean())


class Images(Dataset):
    """Eleven images, augmented by every generator there is; lists which ones were loaded."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(11, 1, 8, 8, generator=generator)
        self.loaded = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.loaded.append(index)
        gain = torch.rand(()) + np.random.rand() + random.random()
        return dict(inputs=self.images[index] * gain)


class Interrupt(Hook):
    """Notes every loss, and ends the process, or the training, after some iterations."""

    priority = 'LOWEST'

    def __init__(self, after, kill):
        self.after = after
        self.kill = kill
        self.losses = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()
        if runner.iter + 1 == self.after and self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if runner.iter + 1 == self.after:
            raise KeyboardInterrupt


def train(
    work_dir, name, by_epoch=True, num_workers=0, interval=4, after=None, kill=False, **config
):
    """Train the toy; returns its losses, what it loaded in this process, and the final weights."""
    train_cfg = dict(by_epoch=by_epoch)
    train_cfg.update(dict(max_epochs=3) if by_epoch else dict(max_iters=MAX_ITERS))
    interrupt = Interrupt(after, kill)
    torch.manual_seed(0)
    runner = Runner(
        Toy(),
        work_dir=str(work_dir / 'work'),
        train_dataloader=dict(
            dataset=Images(),
            batch_size=2,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler'),
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=MAX_ITERS, by_epoch=False)],
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=interval)
        ),
        custom_hooks=[dict(type='ResumeHook'), dict(type='EMAHook'), interrupt],
        experiment_name=f'{work_dir.name}_{name}',
        log_level='WARNING',
        **{'randomness': dict(seed=3), **config},
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        return interrupt.losses, None, None
    finally:
        end_workers(runner.train_dataloader)
    final = read_checkpoint(work_dir / 'work' / f'iter_{MAX_ITERS}.pth')
    return interrupt.losses, runner.train_dataloader.dataset.loaded, final


def end_workers(dataloader):
    """Persistent workers that the garbage collector finds first are waited for in vain."""
    if dataloader._iterator is not None:
        dataloader._iterator._shutdown_workers()


def assert_equal_weights(first, second):
    for part in ('state_dict', 'ema_state_dict'):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])


@pytest.fixture(autouse=True)
def safe_loading():
    refuse_unsafe_checkpoints()


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp('uninterrupted'), 'whole')


def test_the_toy_is_random(uninterrupted, tmp_path):
    """Else the tests below would pass with a hook that does nothing."""
    losses, _, _ = train(tmp_path, 'other', randomness=dict(seed=4))
    assert not set(losses.values()) & set(uninterrupted[0].values())


@pytest.mark.parametrize(('interval', 'after'), [(4, 5), (4, 10), (6, 7), (5, 17)])
def test_resumed_training_repeats_the_uninterrupted_one(tmp_path, uninterrupted, interval, after):
    """In the middle of the first and of later epochs, and (6) after the last batch of one."""
    train(tmp_path, 'killed', interval=interval, after=after)
    losses, loaded, final = train(tmp_path, 'resumed', interval=interval, resume=True)
    whole_losses, whole_loaded, whole_final = uninterrupted
    first = after // interval * interval
    assert losses == {i: whole_losses[i] for i in range(first, MAX_ITERS)}
    assert_equal_weights(final, whole_final)
    epoch, batch = divmod(first, 6)
    assert loaded == whole_loaded[11 * epoch + 2 * batch :], 'an image that was seen is not loaded'


def test_workers_change_nothing(tmp_path, uninterrupted):
    """Two that persist and prefetch, before and after the interruption."""
    killed, _, _ = train(tmp_path, 'killed', num_workers=2, after=10)
    losses, _, final = train(tmp_path, 'resumed', num_workers=2, resume=True)
    assert killed | losses == uninterrupted[0]
    assert_equal_weights(final, uninterrupted[2])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_iteration_based_loop(tmp_path, num_workers):
    whole, _, whole_final = train(tmp_path / 'a', 'whole', by_epoch=False)
    train(tmp_path / 'b', 'killed', by_epoch=False, num_workers=num_workers, after=10)
    losses, _, final = train(
        tmp_path / 'b', 'resumed', by_epoch=False, num_workers=num_workers, resume=True
    )
    assert losses == {i: whole[i] for i in range(8, MAX_ITERS)}
    assert_equal_weights(final, whole_final)


def test_killed_process(tmp_path, uninterrupted):
    script = 'import castling_det, runpy; runpy.run_path({!r}, run_name="__main__")'
    killed = subprocess.run(
        [sys.executable, '-c', script.format(__file__), tmp_path, '9'],
        env=os.environ | {'OMP_NUM_THREADS': '1'},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    losses, _, final = train(tmp_path, 'resumed', resume=True)
    assert losses == {i: uninterrupted[0][i] for i in range(8, MAX_ITERS)}
    assert_equal_weights(final, uninterrupted[2])


def test_order_without_a_configured_seed(tmp_path):
    """The seed that mmengine draws is in the checkpoint, that of the sampler by this hook."""
    train(tmp_path, 'killed', after=10, randomness=dict(seed=None))
    stored = read_checkpoint(tmp_path / 'work' / 'iter_8.pth')
    _, loaded, _ = train(tmp_path, 'resumed', resume=True, randomness=dict(seed=5))
    generator = torch.Generator().manual_seed(int(stored['data_order']['sampler_seed']) + 1)
    assert loaded[:7] == torch.randperm(11, generator=generator)[4:].tolist()


def test_other_number_of_batches_starts_the_epoch_anew(tmp_path, caplog):
    train(tmp_path, 'killed', after=10)
    path = tmp_path / 'work' / 'iter_8.pth'
    checkpoint = read_checkpoint(path)
    assert checkpoint['data_order']['position'] == 2
    assert checkpoint['data_order']['num_batches'] == 6
    checkpoint['data_order']['num_batches'] = 12
    torch.save(checkpoint, path)
    losses, loaded, _ = train(tmp_path, 'resumed', resume=True)
    assert len(losses) == 12 and sorted(loaded[:11]) == list(range(11))
    log = ''.join(path.read_text() for path in tmp_path.glob('work/*/*.log'))
    assert 'Epoch 2 starts with its first image: the checkpoint, of 12 batches' in log


def test_seed_depends_on_each_argument():
    def draw(*arguments):
        seed_everything(*arguments)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw(1, 0, 0, 7) == draw(1, 0, 0, 7)
    arguments = [(1, 0, 0, 7), (2, 0, 0, 7), (1, 1, 0, 7), (1, 0, 1, 7), (1, 0, 0, 8)]
    for values in zip(*(draw(*a) for a in arguments), strict=True):
        assert len(set(values)) == len(arguments)


def test_regrouping_batch_sampler_is_refused(tmp_path):
    class Grouping(BatchSampler):
        pass

    runner = Runner(
        Toy(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=Images(),
            sampler=dict(type='DefaultSampler'),
            batch_sampler=dict(type=Grouping, drop_last=False),
            batch_size=2,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='ResumeHook')],
        experiment_name=tmp_path.name,
        log_level='WARNING',
    )
    with pytest.raises(ValueError, match='cannot count the samples of Grouping'):
        runner.train()


def test_registered_in_the_root_registry():
    assert HOOKS.get('ResumeHook') is ResumeHook


if __name__ == '__main__':
    train(Path(sys.argv[1]), 'killed', after=int(sys.argv[2]), kill=True)
