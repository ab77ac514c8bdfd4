"""The lines that a training or test says for people, and what it leaves to the log file."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from castling_det import progress
from castling_det.hooks.console_hook import ConsoleHook


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(4, 2)

    def forward(self, inputs, mode='tensor'):
        out = self.backbone(torch.stack(inputs)).sum()
        return dict(loss=out) if mode == 'loss' else [out]


class Falling(BaseMetric):
    """0.5 in the first validation, then 0.25, below a table."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        self.calls = getattr(self, 'calls', 0) + 1
        print_log('\n+--table--+', logger='current')
        return dict(comment='text', acc=1 / 2**self.calls)


class Clock(Hook):
    """Each iteration takes a second."""

    def __init__(self):
        self.now = 0.0

    def _after_iter(self, *args, **words):
        self.now += 1


def lines(text: str) -> list[str]:
    """Without dates, levels and colours."""
    return [re.sub(r'.* - mmengine - .*INFO.{0,8} - ', '', line) for line in text.splitlines()]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> tuple[list[str], list[str]]:
    """What the console and the log file say of two epochs of 20 batches."""
    clock = Clock()
    monkeypatch.setattr(progress, 'monotonic', lambda: clock.now)
    dataset = [dict(inputs=x) for x in torch.ones(20, 4)]
    loader = dict(dataset=dataset, batch_size=1, sampler=dict(type='DefaultSampler'))
    (tmp_path / 'my.py').write_text('test_dataloader = dict(batch_size=1)')
    (tmp_path / 'pictures').mkdir()
    runner = Runner(
        Toy(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_dataloader=loader,
        val_evaluator=[Falling()],
        val_cfg=dict(),
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', save_best='acc'),
            logger=dict(type='LoggerHook', interval=8),
        ),
        custom_hooks=[clock],
        cfg=Config.fromfile(tmp_path / 'my.py'),
        experiment_name=tmp_path.name,
    )
    runner.register_hook(ConsoleHook(tmp_path / 'pictures'))
    capsys.readouterr()
    runner.train()
    return lines(capsys.readouterr().out), lines(Path(runner.logger.log_file).read_text())


def test_model_and_log_come_first(run, tmp_path):
    console, _ = run
    at = console.index('Toy with Linear: 0.00 M parameters, 0 classes')
    assert re.fullmatch(rf'Log: {tmp_path}/.*\.log', console[at + 1])
    assert at < next(n for n, line in enumerate(console) if '(train)' in line or 'train [' in line)


def test_words_on_the_progress_where_the_logger_is_silent(run):
    """The logger speaks after 8 and 16 batches; patience lasts 3, 6 and 12 s."""
    console, _ = run
    words = [line for line in console if re.match(r'(train|val) \[', line)]
    places = [line.split(']')[0] + ']' for line in words]
    validation = ['val [3/20]', 'val [14/20]']
    assert places == ['train [3/40]', 'train [14/40]', *validation, *validation]
    assert re.fullmatch(r'train \[3/40\]  eta: 0:\d\d:\d\d  loss: -?[\d.]+', words[0])
    assert re.fullmatch(r'val \[3/20\]  eta: 0:\d\d:\d\d', words[2])


def test_one_line_for_each_validation_and_its_table_in_the_file(run):
    console, file = run
    said = [line for line in console if line.startswith('Validation')]
    assert said == [
        'Validation after epoch 1: acc 0.5000, best so far 0.5000',
        'Validation after epoch 2: acc 0.2500, best so far 0.5000',
    ]
    assert set(said) <= set(file)
    assert '+--table--+' not in console and file.count('+--table--+') == 2


def test_what_has_come_of_it_stands_at_the_end(run, tmp_path):
    console, _ = run
    best = f'{tmp_path}/best_acc_epoch_1.pth'
    done, checkpoint, pictures, log, next_command, draw, export = console[-7:]
    assert done == 'Training is done'
    assert checkpoint == f'Best checkpoint: {best}, acc 0.5000; the last validation had 0.2500'
    assert pictures == f'Pictures of the last validation: {tmp_path}/pictures'
    assert log.startswith(f'Log: {tmp_path}/')
    assert re.fullmatch(rf'Next: castling-det test .*my.py {best}', next_command)
    assert draw == f'Draw: castling-det predict PHOTOS --checkpoint {best} --out-dir drawn'
    assert re.fullmatch(
        rf'Ship it: castling-det export .*my.py {best} --out shipped/model.onnx', export
    )
