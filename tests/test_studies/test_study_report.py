from pathlib import Path

import pytest
from study import Run, Study
from study_report import picture, tables

ROOT = Path(__file__).parents[2]
NANO = ROOT / 'configs/castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'
PLAN = f"""
base = '{NANO}'
metric = 'mAP'
lrs = [0.1, 0.2]
seeds = [0, 1, 2]
reference = 'twin'
arms = {{
    'twin': dict(
        options={{'model.backbone.attn': dict(_delete_=True, type='SoftmaxAttention')}},
        tuned_as='twin',
    ),
    'ours': dict(options={{}}, tuned_as='ours', form='training'),
    'late': dict(options={{}}, tuned_as='ours', seeds=[0]),
}}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / 'plan.py').write_text(PLAN)
    return Study(tmp_path / 'plan.py')


def finish(study, run, score):
    metrics = dict(mAP=score, small=-1.0, resampled=[score - 0.01, score + 0.01])
    study.save(
        run,
        dict(
            metrics=dict.fromkeys(study.forms(run), metrics),
            train_cpu_seconds=60 * (1 + run.seed),
            train_peak_mib=900 + run.seed,
        ),
    )


def test_a_study_without_runs(study):
    found = tables(study)
    assert found['tuning'][1:] == [['twin', '', ''], ['ours', '', '']]
    assert [row[:4] for row in found['arms'][1:]] == [
        [arm, '0', '', '*not run*'] for arm in ('twin', 'ours', 'late')
    ]
    assert found['metrics'][1:] == [[arm, '*not run*'] for arm in ('twin', 'ours', 'late')]
    params = {row[0]: row[1:3] for row in found['cost'][1:]}
    assert params['ours'] == ['1.79', '0.089'] and params['twin'] == ['1.79', '0.094']


def test_an_arm_that_is_tuned_before_the_reference(study):
    for lr in (0.1, 0.2):
        finish(study, Run('ours', lr, 0), lr)
    finish(study, Run('twin', 0.1, 0), 0.5)
    twin, ours, _ = tables(study)['arms'][1:]
    assert twin[1:4] == ['0', '', '*not run*']
    assert ours == ['ours', '1', '0.2', '0.200', '', 'not enough pairs']


def test_numbers_of_a_study(study):
    scores = {'twin': (0.50, 0.52, 0.54), 'ours': (0.53, 0.56, 0.59)}
    for arm in scores:
        for lr in (0.1, 0.2):
            finish(study, Run(arm, lr, 0), scores[arm][0] - (lr == 0.2) * 0.1)
        for seed in (1, 2):
            finish(study, Run(arm, 0.1, seed), scores[arm][seed])
    found = tables(study)
    assert found['tuning'][1:] == [['twin', '0.500', '0.400'], ['ours', '0.530', '0.430']]
    twin, ours, late = found['arms'][1:]
    assert twin == ['twin', '3', '0.1', '0.520 ± 0.020', 'reference', '']
    # Gains 0.03, 0.04 and 0.05: mean 0.04, standard error 0.01 / sqrt(3).
    assert ours == ['ours', '3', '0.1', '0.560 ± 0.030', '+0.0400 ± 0.0058', 'win']
    assert late[3] == '*not run*'
    header, *rows = found['metrics']
    assert header == ['arm', 'form', 'mAP', 'resampled']
    assert [row[:2] for row in rows] == [
        ['twin', 'inference'],
        ['ours', 'training'],
        ['ours', 'inference'],
    ]
    assert rows[0][2:] == ['0.520 ± 0.020', '0.010 ± 0.000']
    assert found['cost'][1][3:] == ['2.0', '902']
    dots = [line.get_xdata() for line in picture(study).axes[0].get_lines()]
    assert list(dots[0]) == [0.50, 0.52, 0.54] and dots[1] == pytest.approx([0.52, 0.52])
