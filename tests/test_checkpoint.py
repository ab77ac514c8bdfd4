import argparse
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from castling_det.checkpoint import (
    fit_weights,
    load_weights,
    read_checkpoint,
    refuse_unsafe_checkpoints,
    weights_of,
)
from castling_det.errors import InputError


class Malice:
    """Writes a file when a pickle that holds it is executed."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def malicious(tmp_path):
    """A checkpoint, and the file that executing it would make."""
    path, target = tmp_path / 'malicious.pth', tmp_path / 'executed'
    torch.save(dict(state_dict={'weight': torch.ones(2)}, meta=Malice(target)), path)
    return path, target


@pytest.fixture
def restored_loader():
    """Puts mmengine's own loaders back afterwards."""
    schemes = CheckpointLoader._schemes
    CheckpointLoader._schemes = schemes.copy()
    yield
    CheckpointLoader._schemes = schemes


def test_the_malicious_file_works(malicious):
    """Else the tests below would pass with a pickle that does nothing."""
    path, target = malicious
    torch.load(path, weights_only=False)
    assert target.exists()


def test_malicious_pickle_is_not_executed(malicious):
    path, target = malicious
    with pytest.raises(ValueError, match=r'malicious\.pth .* wants to call pathlib\.Path'):
        read_checkpoint(path)
    assert not target.exists()


def test_malicious_pickle_is_not_executed_by_mmengine(malicious, restored_loader):
    path, target = malicious
    refuse_unsafe_checkpoints()
    refuse_unsafe_checkpoints()
    with pytest.raises(ValueError, match=r'malicious\.pth .* wants to call pathlib\.Path'):
        CheckpointLoader.load_checkpoint(str(path))
    assert not target.exists()
    path = path.with_name('good.pth')
    torch.save({'weight': torch.ones(2)}, path)
    loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert torch.equal(loaded['weight'], torch.ones(2))


class Call:
    """Calls a function when a pickle that holds it is executed."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    ('call', 'name'),
    [
        ((os.system, ('true',)), rf'{os.system.__module__}\.system'),
        ((eval, ('1',)), r'builtins\.eval'),
        ((torch.load, ('a.pth',)), r'torch\.serialization\.load'),
    ],
)
def test_the_sentence_names_what_a_pickle_wants_to_call(tmp_path, call, name, zipped):
    """And does not repeat torch's advice, to switch `weights_only` off or to allow the function."""
    path = tmp_path / 'a.pth'
    torch.save(dict(args=Call(*call)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=f'it wants to call {name}, ') as error:
        read_checkpoint(path)
    assert not re.search('weights_only|safe_globals|trust', str(error.value))


def test_malicious_legacy_pickle_is_not_executed(tmp_path):
    path, target = tmp_path / 'legacy.pth', tmp_path / 'executed'
    path.write_bytes(pickle.dumps(Malice(target)))
    with pytest.raises(ValueError, match=r'legacy\.pth'):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ('owner', 'name'),
    [(HistoryBuffer, '__init__'), (HistoryBuffer, 'update'), (np.ndarray, 'mean')],
)
def test_getattr_reaches_statistics_only(tmp_path, owner, name):
    """mmengine allows it; from any function's globals a pickle then reaches every module."""
    path = tmp_path / 'getattr.pth'

    class Reach:
        def __reduce__(self):
            return getattr, (owner, name)

    torch.save(dict(meta=Reach()), path)
    with pytest.raises(ValueError, match=f'attribute {name!r} of'):
        read_checkpoint(path)


@pytest.mark.parametrize('core', [b'numpy._core', b'numpy.core'])
def test_runner_types(tmp_path, core):
    """As pickled beside NumPy 2 and 1, which name their core differently."""
    path = tmp_path / 'epoch_1.pth'
    history = HistoryBuffer([1.0, 2.5], [1, 1])
    torch.save(
        dict(
            meta=dict(epoch=1, seed=np.int64(3), loss=np.float64(0.5)),
            message_hub=dict(log_scalars={'train/loss': history}),
            state_dict={'weight': torch.arange(3.0)},
        ),
        path,
        _use_new_zipfile_serialization=False,
    )
    content = path.read_bytes()
    assert content.count(b'numpy._core.multiarray\n') >= 2
    path.write_bytes(content.replace(b'numpy._core', core))
    checkpoint = read_checkpoint(path)
    assert torch.equal(checkpoint['state_dict']['weight'], torch.arange(3.0))
    assert checkpoint['meta'] == dict(epoch=1, seed=3, loss=0.5)
    loaded = checkpoint['message_hub']['log_scalars']['train/loss']
    assert isinstance(loaded, HistoryBuffer) and loaded.mean() == history.mean()


def damaged(path, zipped, kept):
    torch.save({'weight': torch.arange(1000.0)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])


@pytest.mark.parametrize('kept', [0, 0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize('zipped', [True, False])
def test_truncated_file(tmp_path, zipped, kept):
    path = tmp_path / 'truncated.pth'
    damaged(path, zipped, kept)
    with pytest.raises(ValueError, match=r'truncated\.pth is damaged'):
        read_checkpoint(path)


@pytest.mark.parametrize(
    'content',
    [
        b'hello world\n',
        b'<!DOCTYPE html><html></html>',
        b'{"state_dict": {}}',
        b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n',
        b'\x89PNG\r\n\x1a\n' + bytes(range(256)),
    ],
)
def test_file_of_another_kind(tmp_path, content):
    path = tmp_path / 'other.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'other\.pth is damaged'):
        read_checkpoint(path)


def test_bare_tensor_is_not_a_checkpoint(tmp_path):
    path = tmp_path / 'tensor.pth'
    torch.save(torch.ones(3), path)
    with pytest.raises(ValueError, match=r'tensor\.pth holds a Tensor'):
        read_checkpoint(path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r'absent\.pth does not exist'):
        read_checkpoint(tmp_path / 'absent.pth')
    with pytest.raises(InputError, match='is a folder: give a file'):
        read_checkpoint(tmp_path)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, inputs, mode='tensor'):
        out = self.net(torch.stack(inputs))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class MeanMetric(BaseMetric):
    """A number as mmseg's metric gives it."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(mean=torch.stack(results).mean().numpy()[()])


@pytest.mark.parametrize(
    'optimizer', [dict(type='SGD', lr=0.1, momentum=0.9), dict(type='AdamW', lr=0.1)]
)
def test_runner_checkpoint(tmp_path, restored_loader, optimizer):
    """What mmengine saves with optimizer, schedulers, EMA and message hub: read, and resumed."""

    def runner(**config):
        dataloader = dict(
            dataset=[dict(inputs=torch.ones(3) * i) for i in range(4)],
            sampler=dict(type=DefaultSampler, shuffle=True),
            batch_size=2,
        )
        return Runner(
            Toy(),
            work_dir=str(tmp_path),
            train_dataloader=dataloader,
            train_cfg=dict(by_epoch=True, max_epochs=2),
            val_dataloader=dataloader,
            val_evaluator=[MeanMetric()],
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=optimizer),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2),
                dict(type='CosineAnnealingLR', T_max=2, convert_to_iter_based=True),
            ],
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1, save_best='mean', rule='less'),
                logger=dict(type='LoggerHook', interval=1),
            ),
            custom_hooks=[dict(type='EMAHook')],
            experiment_name=f'{tmp_path.name}_{len(config)}',
            randomness=dict(seed=0),
            **config,
        )

    runner().train()
    path = tmp_path / 'epoch_1.pth'
    checkpoint = read_checkpoint(path)
    assert {
        'meta',
        'state_dict',
        'ema_state_dict',
        'optimizer',
        'param_schedulers',
        'message_hub',
    } <= set(checkpoint)
    loss = checkpoint['message_hub']['log_scalars']['train/loss']
    assert len(loss.data[0]) == 2
    best = read_checkpoint(next(tmp_path.glob('best_mean_*')))
    assert isinstance(best['message_hub']['runtime_info']['best_score'], np.float32)

    refuse_unsafe_checkpoints()
    resumed = runner(load_from=str(path), resume=True)
    resumed.train()
    assert resumed.iter == 4
    final = read_checkpoint(tmp_path / 'epoch_2.pth')
    assert final['meta']['iter'] == 4 and final['meta']['epoch'] == 2


def test_a_config_in_a_checkpoint_is_not_executed(tmp_path, restored_loader):
    """mmengine's `resume` reads `meta['config']` as a config file, that is, executes it."""
    path, target = tmp_path / 'a.pth', tmp_path / 'executed'
    text = f'import pathlib\npathlib.Path({str(target)!r}).touch()\ndel pathlib\n'
    Config.fromstring(text, file_format='.py')
    assert target.exists()
    target.unlink()
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    meta = dict(epoch=0, iter=0, config=text)
    torch.save(dict(state_dict=Toy().state_dict(), meta=meta, message_hub=hub), path)
    refuse_unsafe_checkpoints()
    runner = Runner(
        Toy(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(3))] * 2,
            batch_size=2,
            sampler=dict(type=DefaultSampler),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        load_from=str(path),
        resume=True,
        experiment_name=tmp_path.name,
    )
    runner.train()
    assert runner.iter == 1 and not target.exists()


@pytest.mark.parametrize(
    'filename',
    [
        'https://a.b/c.pth',
        's3://a/b.pth',
        'torchvision://vgg',
        'open-mmlab://vgg',
        'hf-hub://a/b',
        'timm/vit_small_patch16_224.augreg_in1k',
    ],
)
def test_what_is_not_local_is_refused(restored_loader, filename):
    refuse_unsafe_checkpoints()
    for read in (read_checkpoint, CheckpointLoader.load_checkpoint):
        with pytest.raises(InputError, match=f'{filename} is not local, .* download it, and give'):
            read(filename)


def test_everything_that_does_not_fit_is_named():
    model = Toy()
    weights = model.state_dict()
    weights['net.2.weight'] = torch.ones(7, 4)
    del weights['net.0.bias']
    weights['net.9.weight'] = torch.ones(1)
    with pytest.raises(InputError) as error:
        fit_weights(model, weights, 'a.pth', strict=True)
    assert str(error.value) == (
        'a.pth does not fit Toy: the model lacks net.*.weight; the file lacks net.*.bias; '
        'net.*.weight has (7, 4) where the model has (1, 4); give the config that it was '
        'trained with, its num_classes too; a training with other heads starts from it by load_from'
    )


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('gone', ['net.0.bias', 'net.2.weight'])
def test_missing_and_unexpected_keys_do_not_fit(gone, strict):
    whole, part = Toy().state_dict(), Toy().state_dict()
    del part[gone]
    with pytest.raises(InputError, match=r'the file lacks net\.\*\.'):
        fit_weights(Toy(), part, 'a.pth', strict)
    with pytest.raises(InputError, match=r'the model lacks net\.\*\.weight'):
        fit_weights(Toy(), whole | {'net.9.weight': torch.ones(1)}, 'a.pth', strict)


class Cut(nn.Module):
    """The first of three blocks."""

    def __init__(self, unbuilt):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])
        self.unbuilt = unbuilt


def test_blocks_after_the_last_are_left_where_the_model_names_them():
    weights = {f'backbone.blocks.{i}.bias': torch.ones(2) for i in range(3)}
    weights['backbone.blocks.0.weight'] = torch.ones(2, 2)
    cut = nn.ModuleDict(dict(backbone=Cut(('blocks.1.', 'blocks.2.'))))
    for model in (cut, nn.DataParallel(cut)):
        found, report = fit_weights(model, weights, 'a.pth', strict=False)
        assert len(found) == 2 and report.endswith('(backbone.blocks.1, backbone.blocks.2)')
        with pytest.raises(InputError, match=r'before backbone\.blocks\.1, backbone\.blocks\.2 of'):
            fit_weights(model, weights, 'a.pth', strict=True)
    for unbuilt, first in (((), r'1, backbone\.blocks\.2'), (('blocks.1.',), '2')):
        model = nn.ModuleDict(dict(backbone=Cut(unbuilt)))
        with pytest.raises(InputError, match=rf'ends before backbone\.blocks\.{first} of the'):
            fit_weights(model, weights, 'a.pth', strict=False)


class Compiled(nn.Module):
    """A child named as in torch.compile's wrapper, whose import takes seconds."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model


def test_fit_of_its_own_weights_wrapped_or_not():
    """By DistributedDataParallel's prefix, torch.compile's, both, and an average's."""
    model = Toy()
    total = len(model.state_dict())
    wrapped = [model, nn.DataParallel(model), Compiled(model), Compiled(nn.DataParallel(model))]
    for theirs in (*wrapped, AveragedModel(model)):
        for ours in wrapped:
            weights = weights_of(dict(state_dict=theirs.state_dict()), 'a.pth')
            found, report = fit_weights(ours, weights, 'a.pth', strict=True)
            assert report == f'a.pth: {total} of {total} weights of the model filled'
            assert list(found) == list(model.state_dict())


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ({'stem.weight': torch.ones(3)}, r'a\.pth .*1 keys \(stem\.weight\).*Toy \(net\.\*'),
        ({'epoch': 3, 'optimizer': {}}, r'a\.pth holds no weights, but epoch, optimizer'),
        ({}, r'a\.pth holds no weights'),
    ],
)
def test_nothing_that_fits(weights, message):
    with pytest.raises(ValueError, match=message):
        fit_weights(Toy(), weights_of(weights, 'a.pth'), 'a.pth', strict=False)


def random_toy(seed):
    torch.manual_seed(seed)
    return Toy().state_dict()


@pytest.mark.parametrize(
    'container',
    [
        lambda weights, other: dict(weights),
        lambda weights, other: dict(state_dict=weights, ema_state_dict=other),
        lambda weights, other: dict(state_dict=other, state_dict_ema=weights),
        lambda weights, other: dict(model=weights, model_ema=None, epoch=3),
        lambda weights, other: dict(model=other, model_ema=weights),
        lambda weights, other: dict(student=other, teacher=weights),
        lambda weights, other: dict(model=weights, args=argparse.Namespace(lr=0.1, data='a')),
        lambda weights, other: {f'module.{key}': value for key, value in weights.items()},
    ],
)
def test_containers(tmp_path, container):
    """Averages are taken; the arguments of a training script are data."""
    weights, path = random_toy(1), tmp_path / 'a.pth'
    torch.save(container(weights, random_toy(2)), path)
    model = Toy()
    load_weights(model, path)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_other_file_formats(tmp_path):
    weights, model = random_toy(1), Toy()
    save_file(weights, tmp_path / 'a.safetensors')
    np.savez(tmp_path / 'a.npz', **{key: value.numpy() for key, value in weights.items()})
    for name in ('a.safetensors', 'a.npz'):
        for value in model.state_dict().values():
            value.zero_()
        load_weights(model, tmp_path / name)
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
        with pytest.raises(InputError, match=f'{name} is damaged'):
            load_weights(model, tmp_path / name)


def test_pickles_in_arrays_are_not_executed(tmp_path):
    target = tmp_path / 'executed'
    np.savez(tmp_path / 'a.npz', weight=np.array([Malice(target)], dtype=object))
    with pytest.raises(InputError, match=r'a\.npz is damaged or no checkpoint'):
        read_checkpoint(tmp_path / 'a.npz')
    assert not target.exists()


def test_nothing_is_loaded_where_not_all_fits(tmp_path):
    path, model = tmp_path / 'a.pth', Toy()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(random_toy(1) | {'net.2.bias': torch.ones(3)}, path)
    with pytest.raises(InputError, match=r'a\.pth does not fit Toy'):
        load_weights(model, path, strict=False)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
