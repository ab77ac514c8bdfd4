import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from castling_det.checkpoint import read_checkpoint
from castling_det.hooks import FiniteLossHook


class Toy(BaseModel):
    """Two loss terms, of which one is what the images say."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        images = torch.stack(inputs)
        out = self.net(torch.ones_like(images)).square().mean()
        return dict(
            loss_cls=out, loss_box=[out * images.mean(), out], accuracy=torch.tensor(math.nan)
        )


def samples(values):
    return [
        dict(
            inputs=torch.full((1,), value),
            data_samples=SimpleNamespace(img_path=f'folder/{number}.jpg'),
        )
        for number, value in enumerate(values)
    ]


def build_runner(work_dir, dataset, *hooks):
    return Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dataset, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[dict(type='FiniteLossHook'), dict(type='EMAHook'), *hooks],
        experiment_name=work_dir.name,
        log_level='WARNING',
    )


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_stops_with_iteration_term_and_images(tmp_path, value):
    runner = build_runner(tmp_path, samples([1.0, 1.0, 1.0, 1.0, value, 1.0, 1.0, 1.0]))
    with pytest.raises(ValueError) as error:
        runner.train()
    message = str(error.value)
    assert message.startswith(f'iteration 3: loss_box = {value} with the images folder/4.jpg, ')
    assert 'folder/5.jpg' in message and 'folder/3.jpg' not in message
    assert 'loss_cls' not in message and 'accuracy' not in message
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    weights = read_checkpoint(tmp_path / 'iter_2.pth')['state_dict']
    assert all(weight.isfinite().all() for weight in weights.values())


def test_batch_without_paths(tmp_path):
    dataset = [dict(inputs=torch.full((1,), math.nan))] * 2
    with pytest.raises(ValueError, match=r'with the images \(no paths given\)'):
        build_runner(tmp_path, dataset).train()


class SpoilGradient(Hook):
    """Makes a parameter NaN after a step whose loss was finite, as an infinite gradient does."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 1:
            runner.model.net.weight.data.fill_(math.nan)


def test_spoiled_weights_are_not_saved(tmp_path):
    runner = build_runner(tmp_path, samples([1.0] * 8), SpoilGradient())
    with pytest.raises(ValueError, match=r'iteration 2: the parameter net\.weight is not finite'):
        runner.train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_1.pth')


def test_finite_training_is_left_alone(tmp_path):
    build_runner(tmp_path, samples([1.0] * 8)).train()
    assert (tmp_path / 'iter_4.pth').is_file()


def test_registered_in_the_root_registry():
    assert HOOKS.get('FiniteLossHook') is FiniteLossHook
