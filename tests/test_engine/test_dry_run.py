"""What a dry run finds before a training does, and what it makes of the times it measured."""

import itertools

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

from castling_det.engine.dry_run import DryRun, dry_run, seconds_a_batch
from castling_det.errors import InputError

NUMBERS = itertools.count()


@MODELS.register_module()
class NormToy(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def forward(self, inputs, mode='tensor'):
        out = self.net(torch.stack(inputs))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


@DATASETS.register_module()
class FiveVectors:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return dict(inputs=torch.full((3,), float(index)))


@METRICS.register_module()
class CountOf(BaseMetric):
    """Fails as metrics of mmdet do, if it is to."""

    def __init__(self, fails_with=None):
        super().__init__()
        self.fails_with = fails_with

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        if self.fails_with:
            raise KeyError(self.fails_with)
        return dict(count=len(results))


def config(**train_loader) -> Config:
    loader = dict(dataset=dict(type='FiveVectors'), sampler=dict(type='DefaultSampler'))
    return Config(
        dict(
            model=dict(type='NormToy'),
            train_dataloader=dict(loader, **(dict(batch_size=3) | train_loader)),
            train_cfg=dict(by_epoch=True, max_epochs=6, val_interval=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            val_dataloader=dict(loader, batch_size=2),
            val_cfg=dict(),
            val_evaluator=dict(type='CountOf'),
            default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', interval=1)),
            experiment_name=f'dry_run_{next(NUMBERS)}',  # mmengine keeps what had the same name
        )
    )


def test_dry_run_counts_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = dry_run(config())
    assert (found.iterations, found.val_batches) == (6 * 2, 3 * 3)
    assert not list(tmp_path.iterdir())


def test_training_without_validation():
    cfg = config()
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key)
    found = dry_run(cfg)
    assert (found.val_batches, found.total_seconds) == (0, 12 * found.iteration_seconds)


@pytest.mark.parametrize('batch_size', [1, 2, 4])
def test_batch_of_one_image_under_batch_norm(batch_size):
    """Every one, the last after those that are tried, and the last of two."""
    with pytest.raises(InputError, match='a batch of a single image, .* batch_size=2 or more, and'):
        dry_run(config(batch_size=batch_size))
    if batch_size > 1:
        dry_run(config(batch_size=batch_size, drop_last=True))


def test_metric_that_fails_after_a_batch():
    cfg = config()
    cfg.val_evaluator.fails_with = 'segm is not in results'
    with pytest.raises(InputError, match='^val_evaluator fails after a batch: segm is not in res'):
        dry_run(cfg)


def test_best_by_a_metric_that_is_not_measured():
    wrong, right = config(), config()
    wrong.default_hooks.checkpoint.update(save_best='bbox_mAP', rule='greater')
    right.default_hooks.checkpoint.update(save_best='count', rule='greater')
    with pytest.raises(InputError, match="save_best is 'bbox_mAP', which .*: take one of count$"):
        dry_run(wrong)
    dry_run(right)


@pytest.mark.parametrize(
    ('load_seconds', 'num_workers', 'expected'), [(0.5, 0, 2.5), (0.5, 2, 2.0), (9.0, 3, 3.0)]
)
def test_workers_read_while_the_model_computes(load_seconds, num_workers, expected):
    assert seconds_a_batch(2.0, load_seconds, num_workers) == expected


def test_report_of_a_whole_training():
    dry_run = DryRun(
        device='cpu',
        num_processes=1,
        iterations=1000,
        step_seconds=2.0,
        load_seconds=0.5,
        num_workers=2,
        val_batches=40,
        val_seconds=1.5,
        memory_bytes=3 << 29,
    )
    assert dry_run.total_seconds == 1000 * 2.0 + 40 * 1.5
    report = dry_run.report()
    assert '1000 iterations, 0:33:20' in report and '40 batches, 0:01:00' in report
    assert 'whole       0:34:20' in report and '1.50 GiB' in report
