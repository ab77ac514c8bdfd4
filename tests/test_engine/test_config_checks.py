from pathlib import Path

import pytest
from mmengine.config import Config

from castling_det.engine.config_checks import (
    check_device,
    check_evaluator,
    check_numbers,
    check_options,
    check_parts,
    check_vis_backends,
)
from castling_det.errors import InputError

CONFIGS = Path(__file__).parents[2] / 'configs' / 'castling_picodet'
DEMO = CONFIGS / 'castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'


@pytest.fixture(scope='module')
def cfg() -> Config:
    return Config.fromfile(DEMO)


@pytest.mark.parametrize(
    'path',
    [
        'model.backbone.arch',
        'model.backbone.new_argument',  # building refuses what the type does not take
        'optim_wrapper.clip_grad.max_norm',
        'model.backbone._delete_',
        'model.train_cfg._delete_',
        'custom_hooks.0.end',
        'train_dataloader.dataset.pipeline.2.prob',
        'train_dataloader.drop_last',
        'randomness.deterministic',
        'work_dir',
        'experiment_name',
        'find_unused_parameters',
        'default_hooks.checkpoint.save_best',
        'model.init_cfg.checkpoint',  # a new section
        'optim_wrapper.paramwise_cfg.norm_decay_mult',
    ],
)
def test_options_that_have_an_effect(cfg, path):
    check_options(cfg, {path: 1})


@pytest.mark.parametrize(
    ('path', 'reason', 'nearest'),
    [
        ('modle.backbone.arch', "the config has no 'modle'", 'model.backbone.arch'),
        ('optimizer.lr', "the config has no 'optimizer'", 'optim_wrapper.optimizer.lr'),
        ('model.train_cfg.inital_epoch', "has no 'inital_epoch'", 'model.train_cfg.initial_epoch'),
        ('train_dataloader.batchsize', "has no 'batchsize'", 'train_dataloader.batch_size'),
        ('model.backbon.x', "model has no 'backbon'", 'model.backbone'),
        ('optim_wrapper.optimiser.lr', "has no 'optimiser'", 'optim_wrapper.optimizer'),
        ('custom_hooks.99.end', '99 is no index of it', ''),
        ('custom_hooks.first.end', 'first is no index of it', ''),
        ('load_from.x', 'load_from is None, not a dict', ''),
        ('max_epochs', 'is a variable of the file', 'train_cfg.max_epochs'),
        ('train_pipeline.2.prob', 'is a variable', 'train_dataloader.dataset.pipeline.2.prob'),
    ],
)
def test_options_without_effect(cfg, path, reason, nearest):
    with pytest.raises(ValueError) as refused:
        check_options(cfg, {'work_dir': 'x', path: 1})
    said, _, near = str(refused.value).partition('; the nearest are ')
    assert said.startswith(f'--cfg-options {path}: ') and reason in said
    assert nearest in near


def test_first_index_beyond_a_list_is_refused():
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook')] * 2))
    check_options(cfg, {'custom_hooks.1.momentum': 0.1})
    with pytest.raises(ValueError, match='custom_hooks is a list of 2, and 2 is no index of it'):
        check_options(cfg, {'custom_hooks.2.momentum': 0.1})


def test_lacking_parts_are_named(cfg, tmp_path):
    check_parts(cfg, 'model', 'train_cfg', 'test_cfg')
    (tmp_path / 'part.py').write_text('model = None\ntest_cfg = dict()')
    part = Config.fromfile(tmp_path / 'part.py')
    with pytest.raises(ValueError, match=r'/part\.py has no model, no test_dataloader: '):
        check_parts(part, 'model', 'test_dataloader', 'test_cfg')


@pytest.mark.parametrize(
    ('path', 'value', 'remedy'),
    [
        ('train_dataloader.batch_size', 'abc', 'a whole number'),
        ('train_dataloader.batch_size', 1.5, 'a whole number'),
        ('val_dataloader.batch_size', 0, 'at least 1'),
        ('test_dataloader.num_workers', -1, 'at least 0'),
        ('optim_wrapper.optimizer.lr', 'abc', 'a number'),
        ('train_cfg.max_epochs', True, 'a whole number'),
    ],
)
def test_no_number_where_one_is_counted_with(cfg, path, value, remedy):
    check_numbers(cfg)
    wrong = Config.fromfile(DEMO)
    wrong.merge_from_dict({path: value})
    with pytest.raises(ValueError) as refused:
        check_numbers(wrong)
    assert str(refused.value).startswith(f'{path} is {value!r}: write ')
    assert remedy in str(refused.value)


def test_numbers_of_the_shipped_configs():
    for config in sorted(CONFIGS.glob('*.py')):
        check_numbers(Config.fromfile(config))


def test_index_of_a_list_counts_as_the_config_does(cfg):
    """A wrong index would set another transform: the last one exists, the one after it does not."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    last = f'train_dataloader.dataset.pipeline.{len(pipeline) - 1}.type'
    check_options(cfg, {last: 'PackDetInputs'})
    beyond = f'train_dataloader.dataset.pipeline.{len(pipeline)}.type'
    with pytest.raises(
        InputError, match=f'is a list of {len(pipeline)}, and {len(pipeline)} is no'
    ):
        check_options(cfg, {beyond: 'PackDetInputs'})
    with pytest.raises(InputError, match='pipeline.0 has no .typ.'):
        check_options(Config(dict(pipeline=[dict(a=1), dict(typ=1)])), {'pipeline.0.typ.x': 1})


def test_mixed_precision_of_mmengine_needs_a_gpu(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    check_device(Config(dict(optim_wrapper=dict(type='OptimWrapper'))))
    with pytest.raises(InputError, match='needs a GPU: .* BFloat16OptimWrapper'):
        check_device(Config(dict(optim_wrapper=dict(type='AmpOptimWrapper'))))


def test_backend_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr('castling_det.engine.config_checks.find_spec', lambda name: None)
    backends = [dict(type='LocalVisBackend'), dict(type='mmengine.WandbVisBackend')]
    with pytest.raises(InputError, match=r'vis_backends\.1: WandbVisBackend needs .* wandb: pip'):
        check_vis_backends(Config(dict(visualizer=dict(vis_backends=backends))))
    check_vis_backends(Config(dict(visualizer=dict(vis_backends=backends[:1]))))


@pytest.mark.parametrize(
    ('arguments', 'reason'),
    [
        (dict(metric='mAP'), "metric should be one of 'bbox', 'segm'"),
        (dict(format_only=True), 'outfile_prefix'),
    ],
)
def test_what_a_metric_refuses_is_found_at_the_start(arguments, reason):
    evaluator = dict(type='CocoMetric', **arguments)
    with pytest.raises(InputError, match='^val_evaluator: CocoMetric does not take') as refused:
        check_evaluator(Config(dict(default_scope='mmdet', val_evaluator=evaluator)), 'val')
    assert reason in str(refused.value)


def test_metric_that_does_not_exist():
    cfg = Config(dict(default_scope='mmdet', val_evaluator=dict(type='CocoMetrik')))
    with pytest.raises(InputError, match="val_evaluator.type: no 'CocoMetrik' .* are CocoMetric,"):
        check_evaluator(cfg, 'val')


def evaluated(metric: dict, model: dict, **step) -> Config:
    loader = dict(dataset=dict(pipeline=[dict(type='PackDetInputs', **step)]))
    evaluator = dict(type='CocoMetric', **metric)
    cfg = dict(default_scope='mmdet', model=model, val_dataloader=loader, val_evaluator=evaluator)
    return Config(cfg)


def test_metric_with_nothing_to_compare_with():
    with pytest.raises(InputError, match='^val_evaluator has no ann_file .* of val_dataloader$'):
        check_evaluator(evaluated(dict(ann_file=None), {}), 'val')
    check_evaluator(evaluated(dict(ann_file=None), {}, meta_keys=('img_id', 'instances')), 'val')


def test_metric_of_masks_that_the_model_does_not_find(tmp_path):
    (tmp_path / 'ann.json').write_text('{}')
    for metric in ('segm', ['bbox', 'segm']):
        metric = dict(ann_file=f'{tmp_path}/ann.json', metric=metric)
        with pytest.raises(InputError, match="^val_evaluator.metric is .*segm.* take 'bbox'$"):
            check_evaluator(evaluated(metric, dict(bbox_head=dict(type='PicoHead'))), 'val')
        check_evaluator(evaluated(metric, dict(roi_head=dict(mask_head={}))), 'val')
