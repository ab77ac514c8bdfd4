"""Two processes against one, through the commands that the user types."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODEL_WRAPPERS, RUNNERS, DefaultScope
from mmengine.visualization import Visualizer
from torch import nn

from castling_det.checkpoint import load_weights
from castling_det.configs import build_model
from castling_det.datasets.shapes import write_shapes
from castling_det.engine.cli import load_config
from castling_det.engine.distributed import CPUDataParallel, is_first_process, start_processes

ROOT = Path(__file__).parents[2]
ITERATIONS = 20

# 20 iterations of 8 images, in float64 with frozen batch norms and no augmentation: all that still
# tells one process from two is in which order sums are added up. Assigned by ATSS throughout: an
# untrained task-aligned one finds less than one box a process, where the losses are not scaled.
LEAF = """
_base_ = (
    'castling_det::castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'
)

custom_imports = dict(
    imports=['castling_det', 'castling_det.detection', 'exact_training'], allow_failed_imports=False
)
model = dict(train_cfg=dict(initial_epoch=10))
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(
        data_root='{root}/shapes/', filter_cfg=None, pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(128, 64)),
            dict(type='PackDetInputs'),
        ]
    )
)
val_dataloader = val_cfg = val_evaluator = None
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=10)
default_hooks = dict(checkpoint=None)
custom_hooks = [dict(type='CastlingHook'), dict(type='ExactTraining')]
param_scheduler = []
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.3))
"""

MODULE = """
import json
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm

torch.set_default_dtype(torch.float64)


@HOOKS.register_module()
class ExactTraining(Hook):
    def before_train(self, runner):
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm) and not module.weight.any():
                module.weight.data.fill_(0.5)  # residuals start at zero: let them take part
        self.losses = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: value.item() for name, value in outputs.items()})

    def after_train(self, runner):
        record = dict(losses=self.losses, wrapper=type(runner.model).__name__)
        file = Path(runner.work_dir) / f'rank{runner.rank}_of_{runner.world_size}.json'
        file.write_text(json.dumps(record))
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture
def forget_instances():
    """mmengine finds its globals by name, and a data type is one too: leave none behind."""
    yield
    torch.set_default_dtype(torch.float32)
    for manager in (DefaultScope, MessageHub, MMLogger, Visualizer):
        manager._instance_dict.clear()


def test_two_processes_with_half_the_batch_give_the_losses_of_one(
    tmp_path, monkeypatch, forget_instances
):
    write_shapes(tmp_path / 'shapes', num_train=16, num_val=1)
    (tmp_path / 'leaf.py').write_text(LEAF.format(root=tmp_path))
    (tmp_path / 'exact_training.py').write_text(MODULE)
    environment = os.environ | {
        'OMP_NUM_THREADS': '1',
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'PYTHONPATH': str(tmp_path),
        'PORT': str(free_port()),
        'CUDA_VISIBLE_DEVICES': '',
    }
    two = [tmp_path / 'leaf.py', '2', '--work-dir', tmp_path / 'work']
    options = ['--cfg-options', 'train_dataloader.batch_size=4']
    process = subprocess.Popen(
        [ROOT / 'tools' / 'dist_train.sh', *two, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = load_config(tmp_path / 'leaf.py')
    cfg.work_dir = str(tmp_path / 'work')
    RUNNERS.build(cfg).train()
    output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]

    def record(name: str) -> dict:
        return json.loads((tmp_path / 'work' / f'{name}.json').read_text())

    single, ranks = record('rank0_of_1'), [record(f'rank{rank}_of_2') for rank in range(2)]
    assert single['wrapper'] == 'SingleStageDetector'
    assert [rank['wrapper'] for rank in ranks] == ['CPUDataParallel'] * 2
    assert len(single['losses']) == ITERATIONS
    shares = []
    for whole, *halves in zip(single['losses'], *(r['losses'] for r in ranks), strict=True):
        for name, value in whole.items():
            mean = sum(half[name] for half in halves) / 2
            assert mean == pytest.approx(value, rel=1e-5), name
            shares.append(abs(halves[0][name] / value - 1))
    assert max(shares) > 0.01, 'the processes saw the same images'
    first, last = single['losses'][0]['loss'], single['losses'][-1]['loss']
    assert last < 0.95 * first, 'nothing was learnt: the comparison would be empty'


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_wrapper_turns_synchronised_norms_into_plain_ones(group):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    nn.init.uniform_(model[1].weight)
    weight = model[1].weight.detach().clone()
    wrapped = MODEL_WRAPPERS.build(
        dict(type='CPUDataParallel'), default_args=dict(module=model, device_ids=[0])
    )
    assert isinstance(wrapped, CPUDataParallel) and not wrapped.broadcast_buffers
    norm = wrapped.module[1]
    assert not isinstance(norm, nn.SyncBatchNorm) and torch.equal(norm.weight, weight)
    wrapped(torch.rand(2, 3, 4, 4)).sum().backward()
    assert norm.weight.grad is not None


def test_one_process_starts_nothing():
    cfg = Config(dict(launcher='none'))
    start_processes(cfg)
    assert 'model_wrapper_cfg' not in cfg and not torch.distributed.is_initialized()


def test_launcher_without_its_processes(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ValueError, match='tools/dist_train.sh'):
        start_processes(Config(dict(launcher='pytorch')))


def test_other_launchers_need_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match='--launcher slurm needs GPUs'):
        start_processes(Config(dict(launcher='slurm')))


@pytest.mark.parametrize('name', ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_first_process(monkeypatch, name):
    for other in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(other, raising=False)
    assert is_first_process()
    monkeypatch.setenv(name, '1')
    assert not is_first_process()
    monkeypatch.setenv(name, '0')
    assert is_first_process()


def test_fully_sharded_training_of_one_process(tmp_path, monkeypatch, forget_instances):
    """As docs/training.md has it: losses and checkpoint are those of a plain one."""
    write_shapes(tmp_path / 'shapes', num_train=16, num_val=1)
    (tmp_path / 'leaf.py').write_text(LEAF.format(root=tmp_path))
    (tmp_path / 'exact_training.py').write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    environment = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR='127.0.0.1')
    for name, value in (environment | dict(MASTER_PORT=free_port())).items():
        monkeypatch.setenv(name, str(value))
    device = {} if torch.cuda.is_available() else dict(device_id='cpu')
    sharded = dict(
        launcher='pytorch',
        runner_type='FlexibleRunner',
        strategy=dict(
            type='FSDPStrategy',
            model_wrapper=dict(use_orig_params=True, **device),
            state_dict_cfg=dict(
                state_dict_type='FULL_STATE_DICT',
                state_dict_config=dict(type='FullStateDictConfig'),
                optim_state_dict_config=dict(type='FullOptimStateDictConfig'),
            ),
        ),
    )
    records, models = [], []
    for name, options in (('plain', dict(launcher='none')), ('sharded', sharded)):
        cfg = load_config(tmp_path / 'leaf.py')
        cfg.merge_from_dict(dict(options, train_cfg=dict(max_epochs=1)))
        cfg.default_hooks.checkpoint = dict(type='SafeCheckpointHook', interval=1)
        cfg.work_dir = str(tmp_path / name)
        start_processes(cfg)
        RUNNERS.build(cfg).train()
        records.append(json.loads((tmp_path / name / 'rank0_of_1.json').read_text()))
        models.append(build_model(cfg))
        load_weights(models[-1], tmp_path / name / 'epoch_1.pth')
    torch.distributed.destroy_process_group()
    assert records[1]['wrapper'] == 'MMFullyShardedDataParallel'
    for ours, theirs in zip(*(record['losses'] for record in records), strict=True):
        assert ours == pytest.approx(theirs)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs)
