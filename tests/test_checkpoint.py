import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from castling_det.checkpoint import (
    atomic_write,
    check_fit,
    read_checkpoint,
    refuse_unsafe_checkpoints,
    require_writable,
    write_whole,
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
    with pytest.raises(ValueError, match=r'malicious\.pth.*more than data.*Path'):
        read_checkpoint(path)
    assert not target.exists()


def test_malicious_pickle_is_not_executed_by_mmengine(malicious, restored_loader):
    path, target = malicious
    refuse_unsafe_checkpoints()
    refuse_unsafe_checkpoints()
    with pytest.raises(ValueError, match=r'malicious\.pth.*more than data.*Path'):
        CheckpointLoader.load_checkpoint(str(path))
    assert not target.exists()
    path = path.with_name('good.pth')
    torch.save({'weight': torch.ones(2)}, path)
    loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert torch.equal(loaded['weight'], torch.ones(2))


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


def test_runner_types(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    history = HistoryBuffer([1.0, 2.5], [1, 1])
    torch.save(
        dict(
            meta=dict(epoch=1, seed=np.int64(3), loss=np.float64(0.5)),
            message_hub=dict(log_scalars={'train/loss': history}),
            state_dict={'weight': torch.arange(3.0)},
        ),
        path,
    )
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
    for path in (tmp_path / 'absent.pth', tmp_path):
        with pytest.raises(InputError, match='does not exist'):
            read_checkpoint(path)


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


@pytest.mark.parametrize('filename', ['https://a.b/c.pth', 's3://a/b.pth', 'torchvision://vgg'])
def test_remote_checkpoints_are_refused(restored_loader, filename):
    refuse_unsafe_checkpoints()
    with pytest.raises(ValueError, match=f'{filename} is not local'):
        CheckpointLoader.load_checkpoint(filename)


def test_fit_counts_keys_and_shapes():
    model = Toy()
    weights = model.state_dict()
    total = len(weights)
    weights['net.2.weight'] = torch.ones(7, 4)
    del weights['net.0.bias']
    weights['ema.steps'] = torch.tensor(3)
    weights['net.9.weight'] = torch.ones(1)
    counts, misfit = check_fit(weights, model, 'a.pth')
    assert counts == (
        f'a.pth: {total - 2} keys matched, 1 (net.0.bias, ...) missing, 2 (ema.steps, ...) '
        f'unexpected, 1 of another shape'
    )
    assert 'a.pth' in misfit and 'net.2.weight has (7, 4) where the model has (1, 4)' in misfit
    assert '1 (net.0.bias, ...) missing, 2 (ema.steps, ...) unexpected, 1 of another' in misfit
    assert 'set num_classes as in the config' in misfit


@pytest.mark.parametrize('gone', ['net.0.bias', 'net.2.weight'])
def test_missing_and_unexpected_keys_do_not_fit(gone):
    whole, part = Toy().state_dict(), Toy().state_dict()
    del part[gone]
    _, misfit = check_fit(part, Toy(), 'a.pth')
    assert f'of its keys 1 ({gone}, ...) missing; give the config' in misfit
    _, misfit = check_fit(whole | {'net.9.bias': torch.ones(1)}, Toy(), 'a.pth')
    assert 'of its keys 1 (net.9.bias, ...) unexpected; give the config' in misfit


def test_fit_of_its_own_weights_wrapped_or_not():
    model = Toy()
    total = len(model.state_dict())
    for theirs in (model, nn.DataParallel(model)):
        for ours in (model, nn.DataParallel(model)):
            counts, misfit = check_fit(theirs.state_dict(), ours, 'a.pth')
            assert counts == (
                f'a.pth: {total} keys matched, 0 missing, 0 unexpected, 0 of another shape'
            )
            assert not misfit


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ({'stem.weight': torch.ones(3)}, r'a\.pth.*as stem\.weight.*as net\.0\.weight'),
        ({'net.0.weight': torch.ones(3)}, r'a\.pth is of another model'),
        ({'epoch': 3, 'optimizer': {}}, r'a\.pth holds no weights, but epoch, optimizer'),
        ({}, r'a\.pth holds no weights'),
    ],
)
def test_nothing_that_fits(weights, message):
    with pytest.raises(ValueError, match=message):
        check_fit(weights, Toy(), 'a.pth')


def test_file_is_replaced_whole(tmp_path):
    path = tmp_path / 'a'
    for content in (b'first', b'second, which is longer', b''):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_cannot_be_renamed_is_left(tmp_path):
    (tmp_path / 'a').mkdir()
    with pytest.raises(ValueError, match=r'/a cannot be written \(Is a directory\)'):
        write_whole(tmp_path / 'a', b'content')
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_full_device(tmp_path):
    """The kernel's own refusal: /dev/full takes nothing."""
    (tmp_path / 'a').write_text('before')
    (tmp_path / '.unfinished-a').symlink_to('/dev/full')
    with pytest.raises(ValueError, match=r'/a cannot be written \(No space left on device\)'):
        write_whole(tmp_path / 'a', b'content')
    assert (tmp_path / 'a').read_text() == 'before'
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_writable_folder(tmp_path):
    require_writable(tmp_path / 'a' / 'b')
    assert (tmp_path / 'a' / 'b').is_dir() and not list((tmp_path / 'a' / 'b').iterdir())
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r'file cannot be written .*--work-dir'):
        require_writable(tmp_path / 'file')


def test_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave an empty file under it, the old one being gone."""
    path, steps = tmp_path / 'a.pth', []
    synchronise, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, 'fsync', lambda fd: steps.append(os.fstat(fd).st_size) or synchronise(fd)
    )
    monkeypatch.setattr(
        Path, 'replace', lambda self, to: steps.append(Path(to).name) or replace(self, to)
    )
    write_whole(path, b'12345')
    assert steps == [5, 'a.pth'] and path.read_bytes() == b'12345'


def test_file_appears_when_all_is_written(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    with atomic_write(path) as unfinished:
        unfinished.write_text('one')
        assert not path.exists()
    assert path.read_text() == 'one'
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_writing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as unfinished:
        unfinished.write_text('ne')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]
