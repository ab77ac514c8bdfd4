"""A schedule that does not fit the length of its training."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch.utils.data import DataLoader

from castling_det.engine.runner_checks import check_runner, schedule_faults, single_images_named
from castling_det.errors import InputError


def faults(*schedulers: dict, max_iters: int, epoch: int | None = None, **train_cfg) -> list[str]:
    cfg = Config(dict(param_scheduler=list(schedulers), model=dict(train_cfg=train_cfg)))
    return list(schedule_faults(cfg, max_iters, epoch))


WARM_UP = dict(type='LinearLR', by_epoch=False, begin=0, end=100)
COSINE = dict(type='CosineAnnealingLR', T_max=16, convert_to_iter_based=True)


def test_a_schedule_that_fits():
    assert not faults(WARM_UP, COSINE, max_iters=160, epoch=10, initial_epoch=3)
    assert not faults(WARM_UP, max_iters=1000)
    poly = dict(type='PolyLR', by_epoch=False, begin=100, end=1000)
    assert not faults(WARM_UP, poly, max_iters=1000)
    assert not faults(dict(type='MultiStepLR', milestones=[8, 11]), max_iters=120, epoch=10)


@pytest.mark.parametrize('epochs', [2, 20])
def test_max_epochs_alone_is_changed(epochs):
    (said,) = faults(WARM_UP, COSINE, max_iters=10 * epochs, epoch=10)
    assert 'param_scheduler.1.T_max after 160' in said
    assert ('param_scheduler.0.end after 100' in said) == (epochs == 2)
    assert f'train_cfg.max_epochs={epochs} makes {10 * epochs}' in said


def test_assignment_that_never_switches():
    (said,) = faults(max_iters=20, epoch=10, initial_epoch=3)
    assert 'initial_epoch=3 is not reached with train_cfg.max_epochs=2' in said


def test_training_that_ends_within_its_warm_up():
    poly = dict(type='PolyLR', by_epoch=False, begin=100, end=50)
    with pytest.raises(
        InputError, match=r'param_scheduler\.1 \(PolyLR\) begins at 100, and the tr'
    ):
        faults(WARM_UP, poly, max_iters=50)


def test_odd_schedule_is_a_warning():
    warnings = []
    loop = SimpleNamespace(dataloader=[0], max_iters=50)
    cfg = Config(dict(param_scheduler=[WARM_UP], model={}))
    check_runner(
        SimpleNamespace(train_loop=loop, cfg=cfg, logger=SimpleNamespace(warning=warnings.append))
    )
    (said,) = warnings
    assert 'param_scheduler.0.end after 100 iterations, where train_cfg.max_iters=50' in said


def test_other_errors_than_of_batch_norm_stay_what_they_are():
    with pytest.raises(ValueError, match='^something else$'), single_images_named():
        raise ValueError('something else')


def test_fewer_images_than_a_batch():
    """With drop_last there is none, and mmengine would train on nothing without a word."""
    loader = DataLoader([0, 1], batch_size=4, drop_last=True)
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=loader))
    with pytest.raises(InputError, match='2 images a process are fewer than a batch of 4, which d'):
        check_runner(runner)
