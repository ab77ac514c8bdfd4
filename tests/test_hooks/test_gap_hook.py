import json
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from castling_det.hooks.gap_hook import GapHook, evaluate_seen
from castling_det.models import SelfAttention


class Toy(BaseModel):
    """One castling attention, with dropout, whose masks depend on random numbers in training."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), SelfAttention(8, 2))
        nn.init.normal_(self.inner[2].qkv.weight)

    def forward(self, inputs, image_id, mode='tensor'):
        out = self.inner(torch.stack(inputs)).mean((1, 2))
        if mode == 'loss':
            return dict(loss=out.square().mean())
        return [
            BaseDataElement(metainfo=dict(img_id=i), mean=value)
            for i, value in zip(image_id, out, strict=True)
        ]


class Mean(BaseMetric):
    """Divides by the number of annotated images, as COCO's metric counts the unseen as missed."""

    img_ids = None

    def process(self, data_batch, data_samples):
        self.results.extend((sample['img_id'], sample['mean']) for sample in data_samples)

    def compute_metrics(self, results):
        ids = list(range(10)) if self.img_ids is None else self.img_ids
        assert {image_id for image_id, _ in results} <= set(ids)
        total = sum(float(value) for _, value in results)
        return dict(mean=total / len(ids), size=len(results), name='text', nothing=float('nan'))


class Recorder(Hook):
    """Both forms' mean on the validated weights, computed by hand on the first ``num`` images."""

    def __init__(self, num, inputs):
        self.num, self.inputs, self.gaps, self.modes = num, inputs, {}, []

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        attn = runner.model.inner[2].attn
        self.modes.append(attn.aux.training)
        with torch.no_grad():
            without = runner.model.inner(self.inputs[: self.num]).mean().item()
            attn.aux.train()
            self.gaps[runner.iter] = runner.model.inner(self.inputs[: self.num]).mean() - without
            attn.aux.eval()


def run(work_dir, gap, num=10):
    """Train 4 epochs of 5 iterations with averaged weights."""
    inputs = torch.randn(10, 6, 4, generator=torch.Generator().manual_seed(0))
    dataset = [dict(inputs=x, image_id=i) for i, x in enumerate(inputs)]
    loader = dict(dataset=dataset, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False))
    recorder = Recorder(num, inputs)
    torch.manual_seed(0)
    runner = Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5)),
        val_dataloader=loader,
        val_evaluator=[Mean()],
        val_cfg=dict(),
        default_hooks=dict(checkpoint=None) | gap,
        custom_hooks=[
            dict(type='CastlingHook', end=0.8),
            dict(type='EMAHook', momentum=0.3, update_buffers=True),
            recorder,
        ],
        experiment_name=f'{work_dir.name}_{len(gap)}',
        randomness=dict(seed=0),
    )
    runner.train()
    text = Path(runner.log_dir, 'vis_data', 'scalars.json').read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return runner, recorder, lines


@pytest.mark.parametrize(('num_batches', 'num_images'), [(None, 10), (2, 4)])
def test_gap_of_the_averaged_weights_at_the_present_ramp(tmp_path, num_batches, num_images):
    """Equal to both forms computed by hand; nothing at ramp 1; the validation is left alone."""
    hook = GapHook(num_batches=num_batches)
    _, recorder, lines = run(tmp_path, dict(gap=hook), num_images)
    logged = {line['step']: line for line in lines if 'gap/mean' in line}
    assert list(logged) == [5, 10, 15]  # ramp 1 from iteration 16 on
    for step, line in logged.items():
        assert abs(recorder.gaps[step]) > 1e-4
        assert line == {
            'step': step,
            'gap/mean': pytest.approx(recorder.gaps[step].item(), abs=1e-6),
            'gap/size': 0,
        }
    assert len(recorder.modes) == 20 and not any(recorder.modes)
    assert [line['size'] for line in lines if 'size' in line] == [10] * 4


def test_a_form_without_metrics_has_no_gap(tmp_path, monkeypatch):
    """COCO's metric gives none where no box is found."""
    measure, calls = Mean.compute_metrics, []

    def first_finds_nothing(self, results):
        calls.append(len(results))
        return {} if len(calls) == 1 else measure(self, results)

    monkeypatch.setattr(Mean, 'compute_metrics', first_finds_nothing)
    _, _, lines = run(tmp_path, dict(gap=GapHook()))
    assert [line['step'] for line in lines if 'gap/mean' in line] == [10, 15]


def test_ground_truth_of_the_subset_is_not_kept():
    """CocoMetric without an annotation file makes it of the images that it is first asked for."""

    class Collecting(Mean):
        _coco_api = None

        def compute_metrics(self, results):
            self._coco_api = self._coco_api or self.img_ids
            return dict(size=len(self._coco_api))

    evaluator = Evaluator(Collecting())
    evaluator.process([dict(img_id=3, mean=0.0)])
    assert evaluate_seen(evaluator, [3], 1) == dict(size=1)
    assert evaluator.metrics[0]._coco_api is None


def test_training_is_the_same_without_it(tmp_path):
    with_hook, _, measured = run(tmp_path / 'with', dict(gap=GapHook(num_batches=1)))
    without, _, lines = run(tmp_path / 'without', {})
    expected = without.model.state_dict()
    for key, value in with_hook.model.state_dict().items():
        assert torch.equal(value, expected[key])
    validations = [line['mean'] for line in measured if 'mean' in line]
    assert validations == [line['mean'] for line in lines if 'mean' in line]
