import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from study import Run, Study, bootstrap_ap50

PLAN = """
base = '{base}'
metric = 'mAP'
lrs = [0.1, 0.2]
seeds = [5, 6, 7]
reference = 'twin'
arms = {{
    'twin': dict(options={{'model.attn': dict(_delete_=True, type='Softmax')}}, tuned_as='twin'),
    'ours': dict(options={{}}, tuned_as='ours'),
    'aux kept': dict(options={{'model.attn.aux': 1}}, tuned_as='ours', form='training', seeds=[5]),
}}
"""
BASE = """
model = dict(attn=dict(type='Castling', aux=0))
optim_wrapper = dict(optimizer=dict(lr=1.0))
randomness = dict(seed=0)
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'plan.py').write_text(PLAN.format(base=tmp_path / 'base.py'))
    return Study(tmp_path / 'plan.py')


def finish(study, run, score):
    study.save(run, dict(metrics={form: dict(mAP=score) for form in study.forms(run)}))


def finish_all(study, score):
    """Finish every run with ``score(run)``, and return them in their order."""
    runs = []
    while run := next(study.unfinished(), None):
        finish(study, run, score(run))
        runs.append(run)
    return runs


def test_tunes_first_and_then_goes_seed_by_seed(study):
    best = {'twin': 0.1, 'ours': 0.2, 'aux kept': 0.2}
    runs = finish_all(study, lambda run: 1.0 if run.lr == best[run.arm] else 0.5)
    assert runs == [
        *(Run(arm, lr, 5) for arm in ('twin', 'ours') for lr in (0.1, 0.2)),
        Run('aux kept', 0.2, 5),
        *(Run(arm, best[arm], seed) for seed in (6, 7) for arm in ('twin', 'ours')),
    ]


def test_config_of_a_run(study):
    cfg = study.config(Run('twin', 0.1, 6))
    assert cfg.model.attn == dict(type='Softmax')
    assert (cfg.optim_wrapper.optimizer.lr, cfg.randomness.seed) == (0.1, 6)
    assert study.config(Run('aux kept', 0.2, 5)).model.attn == dict(type='Castling', aux=1)


def test_the_form_of_the_arm_counts(study):
    run = Run('aux kept', 0.2, 5)
    assert study.forms(run) == ('training', 'inference')
    assert study.forms(Run('ours', 0.2, 5)) == ('inference',)
    study.save(run, dict(metrics=dict(training=dict(mAP=0.7), inference=dict(mAP=0.1))))
    assert study.score(run) == 0.7


def test_difference_is_paired(study):
    gains = {5: 0.01, 6: 0.02, 7: 0.06}
    finish_all(study, lambda run: 0.1 * run.seed + (run.arm == 'ours') * gains[run.seed])
    difference = study.difference('ours')
    assert difference.mean == pytest.approx(0.03)
    # Deviations -0.02, -0.01 and 0.03: variance 0.0014 / 2.
    assert difference.error == pytest.approx(math.sqrt(0.0007 / 3))
    assert (difference.num_pairs, difference.verdict) == (3, 'tie')
    alone = study.difference('aux kept')
    assert (alone.num_pairs, alone.verdict) == (1, 'not enough pairs')


@pytest.mark.parametrize('gain, verdict', [(0.05, 'win'), (-0.05, 'loss')])
def test_verdict(study, gain, verdict):
    noise = {5: 0.001, 6: 0.0, 7: -0.001}
    finish_all(study, lambda run: 0.5 + (run.arm == 'ours') * (gain + noise[run.seed]))
    assert study.difference('ours').verdict == verdict


def test_arms_are_tuned_as_arms(tmp_path, study):
    text = (tmp_path / 'plan.py').read_text().replace("tuned_as='ours'", "tuned_as='our'")
    (tmp_path / 'plan.py').write_text(text)
    with pytest.raises(ValueError, match=r"arms\['ours'\].tuned_as is 'our'"):
        Study(tmp_path / 'plan.py')


def test_bootstrap_of_ap50(tmp_path):
    """Of 40 images, one object each, the detector finds those of 30: AP50 is the share drawn."""
    images = [dict(id=i, width=64, height=64) for i in range(40)]
    box = dict(category_id=1, bbox=[8, 8, 16, 16])
    truth = [dict(box, id=i + 1, image_id=i, area=256, iscrowd=0) for i in range(40)]
    ann_file = tmp_path / 'truth.json'
    categories = [dict(id=1, name='cell')]
    ann_file.write_text(json.dumps(dict(images=images, annotations=truth, categories=categories)))
    assert len(COCO(ann_file).anns) == 40
    ap50 = bootstrap_ap50(ann_file, [dict(box, image_id=i, score=0.9) for i in range(30)], 300)
    assert ap50.shape == (300,)
    assert ap50.mean() == pytest.approx(0.75, abs=0.02)
    # A mean over 40 draws of a coin of 0.75 spreads by sqrt(0.75 * 0.25 / 40).
    assert ap50.std() == pytest.approx(math.sqrt(0.75 * 0.25 / 40), rel=0.15)
    every = bootstrap_ap50(ann_file, [dict(box, image_id=i, score=0.9) for i in range(40)], 5)
    np.testing.assert_allclose(every, 1)
