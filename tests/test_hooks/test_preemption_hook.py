"""SIGTERM in the middle of a training, of one process and of its loading processes."""

import os
import signal
import subprocess

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from castling_det.checkpoint import read_checkpoint
from castling_det.hooks.preemption_hook import Preempted, PreemptionHook


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, inputs, mode='tensor'):
        out = self.net(torch.stack(inputs))
        return dict(loss=(out - 1).square().mean()) if mode == 'loss' else list(out)


class Mean(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(mean=torch.stack(results).mean().item())


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.rand(3) + index)


class Send(Hook):
    """Sends SIGTERM before an iteration of the training or of the validation after an epoch."""

    def __init__(self, at, to_workers=False):
        self.at = at
        self.to_workers = to_workers
        self.losses = {}
        self.metrics = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.at == runner.iter:
            self.send(runner)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.at == f'validation {runner.epoch}' and batch_idx == 1:
            self.send(runner)

    def send(self, runner):
        if self.to_workers:
            for worker in runner.train_dataloader._iterator._workers:
                subprocess.run(['kill', str(worker.pid)], check=True)
                worker.join(0.2)
                assert worker.is_alive()
        os.kill(os.getpid(), signal.SIGTERM)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter] = outputs['loss'].item()

    def after_val_epoch(self, runner, metrics=None):
        self.metrics[runner.epoch] = metrics['mean']


def train(work_dir, name, at=None, to_workers=False, num_workers=0, **config):
    """Two epochs of four iterations; returns the hook, the runner, and whether it was ended."""
    loader = dict(
        dataset=Images(),
        batch_size=2,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        sampler=dict(type='DefaultSampler'),
    )
    send = Send(at, to_workers)
    torch.manual_seed(0)
    runner = Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        val_dataloader=dict(
            dataset=[dict(inputs=torch.ones(3))] * 4,
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_cfg=dict(),
        val_evaluator=[Mean()],
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', interval=2)),
        custom_hooks=[dict(type='ResumeHook'), dict(type='EMAHook'), send, PreemptionHook()],
        experiment_name=f'{work_dir.name}_{name}',
        randomness=dict(seed=0),
        log_level='WARNING',
        **config,
    )
    try:
        runner.train()
    except Preempted as stop:
        return send, str(stop)
    finally:
        if runner.train_dataloader._iterator is not None:
            runner.train_dataloader._iterator._shutdown_workers()
    return send, ''


@pytest.fixture(autouse=True)
def unhandled_sigterm():
    """Else one that no hook waits for would end pytest."""

    def fail(number, frame):
        raise AssertionError('SIGTERM is not handled')

    former = signal.signal(signal.SIGTERM, fail)
    yield
    signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize(
    ('at', 'iteration', 'times'),
    [(1, 2, 1), (3, 4, 1), (4, 5, 1), ('validation 1', 4, 1), ('validation 1', 4, 2)],
)
def test_nothing_is_repeated_and_nothing_differs(tmp_path, at, iteration, times):
    """Within an epoch, at its end, after a checkpoint, within a validation and when it is made."""
    whole, _ = train(tmp_path / 'whole', 'whole')
    losses, metrics = {}, {}
    for number in range(times):
        ended, said = train(tmp_path / 'work', f'ended {number}', at, resume=number > 0)
        assert said == f'SIGTERM after {iteration} of 8 iterations'
        assert (tmp_path / 'work' / 'last_checkpoint').read_text().endswith('/interrupted.pth')
        losses |= ended.losses
        metrics |= ended.metrics
    resumed, said = train(tmp_path / 'work', 'resumed', resume=True)
    assert said == ''
    assert min(resumed.losses) == iteration
    assert losses | resumed.losses == whole.losses
    assert metrics | resumed.metrics == whole.metrics and len(whole.metrics) == 2
    weights = [read_checkpoint(tmp_path / name / 'epoch_2.pth') for name in ('whole', 'work')]
    for part in ('state_dict', 'ema_state_dict'):
        first, second = (checkpoint[part] for checkpoint in weights)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert not (tmp_path / 'work' / 'interrupted.pth').exists()


def test_loading_processes_outlive_it(tmp_path):
    """Schedulers and torchrun send it to all processes of a job at once."""
    _, said = train(tmp_path, 'ended', 1, to_workers=True, num_workers=1)
    assert said == 'SIGTERM after 2 of 8 iterations'
