import errno
import io
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from castling_det.checkpoint import read_checkpoint
from castling_det.hooks import SafeCheckpointHook


class Toy(BaseModel):
    """Counts its training iterations, and predicts their number."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.register_buffer('iterations', torch.tensor(0))

    def forward(self, inputs, mode='tensor'):
        if mode != 'loss':
            return [self.iterations.item()] * len(inputs)
        self.iterations += 1
        return dict(loss=self.net(torch.stack(inputs)).square().mean())


def build_runner(work_dir, hook=None, train_cfg=None, checkpoint=None, **config):
    """Five epochs of an iteration."""
    train_cfg = train_cfg or dict(by_epoch=True, max_epochs=5)
    dataset = [dict(inputs=torch.ones(3))] * 2
    loader = dict(dataset=dataset, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False))
    if 'val_evaluator' in config:
        config.update(val_dataloader=loader, val_cfg=dict())
    return Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            loader,
            sampler=dict(type='DefaultSampler' if train_cfg['by_epoch'] else 'InfiniteSampler'),
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(
                dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=1), **checkpoint or {}
            )
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
            if not path.name.startswith(f'.unfinished-{os.getpid()}-{self.name}'):
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


# By iterations done: the best accuracy comes second, the best area under the curve last.
MEASURED = dict(acc={1: 1, 2: 3, 3: 2}, auc={1: 2, 2: 1, 3: 3})


class Killed(BaseException):
    """As after SIGKILL, what would tidy up comes to nothing too."""


class Life:
    """Ends a training before the nth of its steps: files that move or go, and validations.

    Asserts before each that there is a checkpoint to go on from, once there was one, and that no
    best checkpoint went before the better one came.
    """

    def __init__(self, monkeypatch, folder, steps):
        self.folder, self.steps, self.validated = folder, steps, set()
        self.best = dict.fromkeys(MEASURED, 0)
        for name in ('replace', 'unlink', 'remove'):
            monkeypatch.setattr(os, name, self.limited(getattr(os, name)))

    def limited(self, function):
        def call(path, *words, **options):
            if self.folder in Path(path).parents and Path(path).exists():
                self.step()
            return function(path, *words, **options)

        return call

    def step(self):
        if (self.folder / 'last_checkpoint').exists():
            assert Path((self.folder / 'last_checkpoint').read_text()).is_file()
        for name, values in MEASURED.items():
            found = [values[int(path.stem[-1])] for path in self.folder.glob(f'best_{name}_*')]
            assert max(found, default=0) >= self.best[name]
            self.best[name] = max(found, default=0)
        if self.steps == 0:
            raise Killed
        self.steps -= 1


class Measure(BaseMetric):
    def __init__(self, life):
        super().__init__()
        self.life = life

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        self.life.step()
        self.life.validated.add(results[0])
        return {name: values[results[0]] for name, values in MEASURED.items()}


@pytest.mark.parametrize(
    ('train_cfg', 'checkpoint', 'validations'),
    [
        (dict(max_epochs=3), dict(save_best=['acc', 'auc']), {1, 2, 3}),
        (dict(max_epochs=3), dict(save_best='acc', interval=2), {1, 2, 3}),
        (dict(max_iters=3, val_interval=2), dict(save_best='auc', by_epoch=False), {2, 3}),
    ],
)
def test_killed_at_any_step(tmp_path, monkeypatch, train_cfg, checkpoint, validations):
    """Resumed, it ends with the files and validations of a training that was left alone."""
    train_cfg['by_epoch'] = 'max_epochs' in train_cfg
    visualizer = Visualizer()  # building one takes long

    def live(folder, steps, **config):
        with monkeypatch.context() as patch, suppress(Killed):
            life = Life(patch, folder, steps)
            config.update(val_evaluator=[Measure(life)], visualizer=visualizer)
            build_runner(folder, None, train_cfg, checkpoint, **config).train()
        return life

    def left(folder):
        best = {path: read_checkpoint(path) for path in folder.glob('best_*')}
        done = {path.name: each['state_dict']['iterations'].item() for path, each in best.items()}
        return done, {path.name for path in folder.glob('[!0-9]*')}

    steps = 999 - live(tmp_path / 'whole', 999).steps
    whole = left(tmp_path / 'whole')
    for number in range(steps):
        folder = tmp_path / str(number)
        killed = live(folder, number)
        assert killed.steps == 0
        resumed = live(folder, 999, resume=True)
        assert left(folder) == whole
        assert killed.validated | resumed.validated == validations


def measured(monkeypatch, folder, save_best, epochs, **config):
    """Train some epochs; returns which validations were made, and the best checkpoints."""
    life = Life(monkeypatch, folder, 999)
    config['val_evaluator'] = [Measure(life)]
    train_cfg = dict(by_epoch=True, max_epochs=epochs)
    build_runner(folder, None, train_cfg, dict(save_best=save_best), **config).train()
    return life.validated, {path.stem for path in folder.glob('best_*')}


def test_best_checkpoint_that_is_written_anew_stays(tmp_path, monkeypatch):
    """The last validation is made again, as nothing tells of it, and finds more."""
    best = {'best_auc_epoch_3'}
    assert measured(monkeypatch, tmp_path, 'auc', 3) == ({1, 2, 3}, best)
    (tmp_path / 'last_validation').unlink()
    monkeypatch.setitem(MEASURED['auc'], 3, 4)
    assert measured(monkeypatch, tmp_path, 'auc', 3, resume=True) == ({3}, best)


def test_best_by_the_first_metric_outlives_a_resumption(tmp_path, monkeypatch):
    """As ``save_best='auto'`` of classifiers: the third epoch is worse than the second."""
    best = {'best_acc_epoch_2'}
    assert measured(monkeypatch, tmp_path, 'auto', 2) == ({1, 2}, best)
    assert measured(monkeypatch, tmp_path, 'auto', 3, resume=True) == ({3}, best)


class KillAt(Hook):
    """Ends a training in the first iteration of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.epoch == self.epoch:
            raise Killed


def test_best_of_a_validation_that_was_made_up_for_is_remembered(tmp_path, monkeypatch):
    """Killed in the second validation, and again when that has been made, before a checkpoint."""
    config = dict(train_cfg=dict(by_epoch=True, max_epochs=3), checkpoint=dict(save_best='acc'))

    class Fatal(Measure):
        def compute_metrics(self, results):
            if results[0] == 2:
                raise Killed
            return super().compute_metrics(results)

    life = Life(monkeypatch, tmp_path, 999)
    with pytest.raises(Killed):
        build_runner(tmp_path, val_evaluator=[Fatal(life)], **config).train()
    config.update(val_evaluator=[Measure(life)], resume=True)
    with pytest.raises(Killed):
        build_runner(tmp_path, KillAt(2), **config).train()
    build_runner(tmp_path, **config).train()
    assert [path.stem for path in tmp_path.glob('best_*')] == ['best_acc_epoch_2']


def test_a_new_training_knows_of_no_earlier_validation(tmp_path, monkeypatch):
    measured(monkeypatch, tmp_path, 'acc', 3)
    config = dict(train_cfg=dict(by_epoch=True, max_epochs=2), checkpoint=dict(save_best='acc'))
    with pytest.raises(Killed):
        build_runner(tmp_path, KillAt(0), **config).train()
    assert not (tmp_path / 'last_validation').exists()


def test_of_equals_the_last_is_the_best(tmp_path, monkeypatch):
    """A metric that is 0 at first speaks for no epoch."""
    for epoch in (1, 2):
        monkeypatch.setitem(MEASURED['acc'], epoch, 0)
    assert measured(monkeypatch, tmp_path, 'acc', 2) == ({1, 2}, {'best_acc_epoch_2'})


def test_best_of_an_earlier_training_goes_when_this_one_has_its_own(tmp_path, monkeypatch):
    earlier, there = tmp_path / 'best_mIoU_epoch_60.pth', []
    start, own = tmp_path / 'best_mIoU_epoch_9.pth', tmp_path / 'best_model.pth'
    earlier.touch()
    own.touch()
    torch.save(dict(state_dict=Toy().state_dict()), start)

    class Look(Measure):
        def compute_metrics(self, results):
            there.append(earlier.exists())
            return super().compute_metrics(results)

    monkeypatch.setattr(sys.modules[__name__], 'Measure', Look)
    _, best = measured(monkeypatch, tmp_path, 'acc', 3, load_from=str(start))
    assert there == [True, False, False]
    assert best == {'best_acc_epoch_2', start.stem, own.stem}


@pytest.mark.parametrize(('lost', 'acc'), [('nothing', 2), ('best_acc_epoch_2.pth', 3)])
def test_copy_of_a_folder(tmp_path, monkeypatch, lost, acc):
    """Its own best checkpoints count, as far as they are there; the former's are left alone."""
    old, new, names = tmp_path / 'old', tmp_path / 'new', ['acc', 'auc']
    _, best = measured(monkeypatch, old, names, 2)
    assert best == {'best_acc_epoch_2', 'best_auc_epoch_1'}
    shutil.copytree(old, new)
    (new / lost).unlink(missing_ok=True)
    words = dict(load_from=str(new / 'epoch_2.pth'), resume=True)
    expected = {f'best_acc_epoch_{acc}', 'best_auc_epoch_3'}
    assert measured(monkeypatch, new, names, 3, **words) == ({3}, expected)
    assert {path.stem for path in old.glob('best_*')} == best


@pytest.mark.parametrize(
    ('names', 'chosen'),
    [
        (('coco/cat_precision', 'coco/bbox_mAP', 'coco/bbox_mAP_50'), 'coco/bbox_mAP'),
        (('aAcc', 'mIoU'), 'mIoU'),
        (('accuracy/top5', 'accuracy/top1'), 'accuracy/top1'),
        (('precision', 'acc'), 'precision'),
    ],
)
def test_best_by_the_main_metric(names, chosen):
    hook = SafeCheckpointHook(save_best='auto')
    hook._choose_metric(None, list(names))
    assert hook.key_indicators == [chosen] and hook.rules == ['greater']


def test_no_best_by_a_metric_of_which_nobody_knows_whether_much_is_good(tmp_path, monkeypatch):
    monkeypatch.delitem(MEASURED, 'acc')
    monkeypatch.setitem(MEASURED, 'auc', {1: 1, 2: 2, 3: 3})
    for number in (1, 2):
        monkeypatch.setattr(SafeCheckpointHook, '_default_greater_keys', ['auc'] * (2 - number))
        validated, best = measured(monkeypatch, tmp_path / str(number), 'auto', 3)
        assert validated == {1, 2, 3}
        assert best == ({'best_auc_epoch_3'} if number == 1 else set())


def test_registered_in_the_root_registry():
    assert HOOKS.get('SafeCheckpointHook') is SafeCheckpointHook
