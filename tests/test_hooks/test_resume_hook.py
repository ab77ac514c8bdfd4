import json
import math
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
from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import BatchSampler, Dataset

from castling_det.checkpoint import read_checkpoint
from castling_det.engine.distributed import start_processes
from castling_det.hooks import CastlingHook, ResumeHook
from castling_det.hooks.preemption_hook import PreemptionHook
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
    """Notes losses, learning rates and ramps; sends a signal, as by Ctrl-C, after an iteration."""

    priority = 'LOWEST'

    def __init__(self, after, number, rates, castling):
        self.after = after
        self.number = number
        self.losses = {}
        self.rates = rates
        self.castling = castling

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates[runner.iter] = runner.optim_wrapper.param_groups[0]['lr'], self.castling.ramp

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()
        if runner.iter + 1 == self.after:
            os.kill(os.getpid(), self.number)


def train(
    work_dir,
    name,
    by_epoch=True,
    num_workers=0,
    interval=4,
    after=None,
    number=signal.SIGINT,
    batch_size=2,
    max_epochs=3,
    lr=0.01,
    rates=None,
    **config,
):
    """Train the toy; returns its losses, what it loaded in this process, and the final weights."""
    train_cfg = dict(by_epoch=by_epoch)
    train_cfg.update(dict(max_epochs=max_epochs) if by_epoch else dict(max_iters=MAX_ITERS))
    cosine = dict(type='CosineAnnealingLR', T_max=MAX_ITERS, by_epoch=False)
    if by_epoch:
        cosine = dict(type='CosineAnnealingLR', T_max=max_epochs, convert_to_iter_based=True)
    castling = CastlingHook(end=0.8)
    interrupt = Interrupt(after, number, {} if rates is None else rates, castling)
    torch.manual_seed(0)
    runner = Runner(
        Toy(),
        work_dir=str(work_dir / 'work'),
        train_dataloader=dict(
            dataset=Images(),
            batch_size=batch_size,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler'),
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=lr)),
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=interval)
        ),
        custom_hooks=[
            castling,
            dict(type='ResumeHook'),
            dict(type='EMAHook'),
            interrupt,
            PreemptionHook(),
        ],
        experiment_name=f'{work_dir.name}_{name}',
        log_level='WARNING',
        **{'randomness': dict(seed=3), 'param_scheduler': [cosine], **config},
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        runner.train()
    except KeyboardInterrupt:
        return interrupt.losses, None, None
    finally:
        end_workers(runner.train_dataloader)
    barrier()  # the first process writes
    final = read_checkpoint(work_dir / 'work' / f'iter_{runner.max_iters}.pth')
    return interrupt.losses, runner.train_dataloader.dataset.loaded, final


def end_workers(dataloader):
    """Persistent workers that the garbage collector finds first are waited for in vain."""
    if dataloader._iterator is not None:
        dataloader._iterator._shutdown_workers()


def assert_equal_weights(first, second):
    for part in ('state_dict', 'ema_state_dict'):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])


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


@pytest.fixture(scope='module')
def trained_apart(tmp_path_factory):
    """Folder of trainings in processes of their own, which :func:`train_apart` makes.

    They have as many threads as this process: another number has other roundings.
    """
    folder = tmp_path_factory.mktemp('apart')
    train(folder / 'one to two', 'killed', after=9)
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    done = subprocess.run(
        [sys.executable, *launcher, '-m', 'castling_det', __file__, folder],
        env=os.environ
        | {'OMP_NUM_THREADS': f'{torch.get_num_threads()}', 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_killed_process(trained_apart, uninterrupted):
    losses, _, final = train(trained_apart / 'killed', 'resumed', resume=True)
    assert losses == {i: uninterrupted[0][i] for i in range(8, MAX_ITERS)}
    assert_equal_weights(final, uninterrupted[2])


def test_from_one_process_to_two_and_back(trained_apart):
    """Learning rate and ramp go on where they would be."""
    for rank in range(2):
        whole, resumed, *_ = json.loads((trained_apart / f'rank_{rank}.json').read_text())
        assert list(whole) == [*'012345678'] and whole['8'][2] == 1
        rates = {i: values[1:] for i, values in resumed.items()}
        assert rates == {i: whole[i][1:] for i in '45678'}
    whole, resumed = {}, {}
    train(trained_apart / 'one', 'whole', rates=whole)
    train(trained_apart / 'two to one', 'resumed', rates=resumed, resume=True)
    assert resumed == {i: whole[i] for i in range(8, MAX_ITERS)} and resumed[17][1] == 1


def test_sigterm_to_one_of_two_processes(trained_apart):
    """Both end after that iteration, and repeat none."""
    first_losses = set()
    for rank in range(2):
        whole, _, ended, resumed = json.loads((trained_apart / f'rank_{rank}.json').read_text())
        assert list(ended) == [*'01234'] and list(resumed) == [*'5678']
        assert ended | resumed == whole
        first_losses.add(whole['0'][0])
    assert len(first_losses) == 2, 'the processes saw the same images'
    finals = [trained_apart / name / 'work' / 'iter_9.pth' for name in ('two', 'ended')]
    assert_equal_weights(*map(read_checkpoint, finals))


def test_order_without_a_configured_seed(tmp_path):
    """The seed that mmengine draws is in the checkpoint, that of the sampler by this hook."""
    train(tmp_path, 'killed', after=10, randomness=dict(seed=None))
    stored = read_checkpoint(tmp_path / 'work' / 'iter_8.pth')
    _, loaded, _ = train(tmp_path, 'resumed', resume=True, randomness=dict(seed=5))
    generator = torch.Generator().manual_seed(int(stored['data_order']['sampler_seed']) + 1)
    assert loaded[:7] == torch.randperm(11, generator=generator)[4:].tolist()


def log_of(folder):
    return ''.join(path.read_text() for path in folder.glob('work/*/*.log'))


@pytest.mark.parametrize('now', [1, 4, 11])
def test_other_batch_size_goes_on_at_the_same_part_of_the_epoch(tmp_path, now):
    """As another number of processes does: iterations, rate and images are those of the config."""
    whole, resumed = {}, {}
    train(tmp_path / 'whole', 'whole', batch_size=now, rates=whole)
    train(tmp_path / 'other', 'killed', interval=4, after=9)
    _, loaded, _ = train(
        tmp_path / 'other', f'batches of {now}', batch_size=now, rates=resumed, resume=True
    )
    length = -(-11 // now)
    first = length + -(-2 * length // 6)  # iter_8 is 2 of 6 batches into the second epoch
    assert resumed == {i: whole[i] for i in range(first, 3 * length)}
    assert len(loaded) == max(0, 11 - (first - length) * now) + 11
    log = log_of(tmp_path / 'other')
    assert f'(images an iteration 2 -> {now}, iterations an epoch 6 -> {length}, ' in log
    assert f'as they are there after {first} of {3 * length} iterations' in log


def test_longer_schedule_comes_from_the_config(tmp_path):
    whole, resumed, again = {}, {}, {}
    train(tmp_path / 'whole', 'whole', max_epochs=4, rates=whole)
    train(tmp_path / 'other', 'short', max_epochs=2)
    assert 'another schedule' not in log_of(tmp_path / 'other')
    train(tmp_path / 'other', 'longer', max_epochs=4, rates=resumed, resume=True)
    assert resumed == {i: whole[i] for i in range(12, 24)}
    train(tmp_path / 'other', 'again', max_epochs=4, rates=again, resume=True)
    assert not again
    log = log_of(tmp_path / 'other')
    assert '(iterations in all 12 -> 24): weights come from the checkpoint' in log
    assert 'This training is complete: 24 of 24 iterations are done' in log


def test_other_learning_rate_in_the_config(tmp_path):
    """As --auto-scale-lr makes it."""
    rates = {}
    train(tmp_path, 'killed', after=10)
    train(tmp_path, 'faster', lr=0.02, rates=rates, resume=True)
    cosine = [0.01 * (1 + math.cos(math.pi * i / MAX_ITERS)) for i in range(MAX_ITERS)]
    found = {i: rate for i, (rate, _) in rates.items()}
    assert found == {i: pytest.approx(cosine[i]) for i in range(8, MAX_ITERS)}
    assert 'Resumed under another schedule (learning rate): weights come' in log_of(tmp_path)


def test_other_learning_rate_without_a_schedule(tmp_path):
    rates = {}
    train(tmp_path, 'killed', after=10, param_scheduler=None)
    train(tmp_path, 'faster', lr=0.02, rates=rates, resume=True, param_scheduler=None)
    assert {rate for rate, _ in rates.values()} == {0.02}


def test_warm_up_is_no_other_learning_rate(tmp_path):
    warm_up = [dict(type='LinearLR', start_factor=0.1, end=12, by_epoch=False)]
    train(tmp_path, 'killed', after=10, param_scheduler=warm_up)
    train(tmp_path, 'resumed', resume=True, param_scheduler=warm_up)
    assert 'another schedule' not in log_of(tmp_path)


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


def train_apart(folder, rank):
    """One training is killed; then each of two processes notes losses, learning rates and ramps."""
    if rank == 0:
        if os.fork() == 0:
            train(folder / 'killed', 'killed', after=9, number=signal.SIGKILL)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
    cfg = Config(dict(launcher='pytorch'))
    start_processes(cfg)

    def noted(name, **config):
        rates = {}
        config.update(rates=rates, launcher='pytorch', cfg=cfg)
        losses, _, _ = train(folder / name, name, **config)
        return {i: (losses[i], *rates[i]) for i in losses}

    records = [
        noted('two'),
        noted('one to two', resume=True),
        noted('ended', after=5, number=signal.SIGTERM * rank),
        noted('ended', resume=True),
    ]
    noted('two to one', after=5)
    (folder / f'rank_{rank}.json').write_text(json.dumps(records))


if __name__ == '__main__':
    train_apart(Path(sys.argv[1]), int(os.environ['RANK']))
