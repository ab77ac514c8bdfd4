"""Studies: several arms of one recipe, trained with paired seeds, one json for every finished run.

A plan is a config file with the study's results beside it::

    base = 'configs/castling_picodet/....py'        # the recipe that all arms share
    metric = 'coco/bbox_mAP'                        # of the last checkpoint; higher is better
    lrs = [0.0005, 0.001, 0.002]                    # tried with the first seed of a tuned arm
    seeds = [0, 1, 2]
    reference = 'softmax twin'
    arms = {
        'softmax twin': dict(options={...}, tuned_as='softmax twin'),
        'castled': dict(options={}, tuned_as='castled'),
        'aux kept': dict(options={...}, tuned_as='castled', form='training', seeds=[0]),
    }

``options`` are merged into the base as ``--cfg-options`` would be. ``form`` is the one that counts,
by default the inference form, which is tested in any case. A run's json appears when the run is
finished, so a study goes on after its last finished run, and seeds can be added at any time.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from numpy import ndarray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from castling_det.engine.cli import load_config
from castling_det.errors import InputError
from castling_det.output_files import atomic_write


@dataclass(frozen=True)
class Run:
    """One training of an arm."""

    arm: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        return f'{self.arm.replace(" ", "-")}_lr{self.lr:g}_seed{self.seed}'


@dataclass(frozen=True)
class Difference:
    """An arm against the reference, over the seeds that both have.

    Attributes:
        mean: Mean of the paired differences; positive if the arm is better.
        error: Standard error of that mean; nan for a single pair.
        num_pairs: Number of seeds.
    """

    mean: float
    error: float
    num_pairs: int

    @property
    def verdict(self) -> str:
        """'win' or 'loss' beyond two standard errors of at least three pairs, else 'tie'."""
        if self.num_pairs < 3:
            return 'not enough pairs'
        if abs(self.mean) <= 2 * self.error:
            return 'tie'
        return 'win' if self.mean > 0 else 'loss'


class Study:
    """A plan and the results that it has so far.

    Args:
        plan_file (str | Path): Config file as above. The results are in ``results/`` beside it.

    Raises:
        InputError: If there is no such file, or if an arm is tuned as one that the plan lacks.
    """

    def __init__(self, plan_file: str | Path) -> None:
        self.plan = load_config(plan_file)
        self.results_dir = Path(plan_file).parent / 'results'
        for name, arm in self.plan.arms.items():
            if arm.tuned_as not in self.plan.arms:
                raise InputError(
                    f'{plan_file}: arms[{name!r}].tuned_as is {arm.tuned_as!r}, which is not among '
                    f'the arms {list(self.plan.arms)}'
                )

    def config(self, run: Run) -> Config:
        """The base with the run's options, learning rate and seed."""
        cfg = load_config(self.plan.base)
        cfg.merge_from_dict(self.plan.arms[run.arm].options.to_dict())
        cfg.merge_from_dict({'optim_wrapper.optimizer.lr': run.lr, 'randomness.seed': run.seed})
        return cfg

    def forms(self, run: Run) -> tuple[str, ...]:
        """The forms that are evaluated, 'inference' or 'training'; the first one counts."""
        return tuple(dict.fromkeys((self.plan.arms[run.arm].get('form', 'inference'), 'inference')))

    def result(self, run: Run) -> dict | None:
        """What was saved of a run, None as long as it is not finished."""
        file = self.results_dir / f'{run.name}.json'
        return json.loads(file.read_text()) if file.is_file() else None

    def save(self, run: Run, result: dict) -> None:
        """Write the json of a finished run; it appears complete or not at all."""
        with atomic_write(self.results_dir / f'{run.name}.json') as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + '\n')

    def score(self, run: Run) -> float:
        """The plan's metric of a finished run."""
        return self.result(run)['metrics'][self.forms(run)[0]][self.plan.metric]

    def tuning_runs(self, arm: str) -> list[Run]:
        """The first seed with every learning rate, of the arm that ``arm`` is tuned as."""
        tuned = self.plan.arms[arm].tuned_as
        return [Run(tuned, lr, self.plan.seeds[0]) for lr in self.plan.lrs]

    def paired_runs(self, arm: str) -> list[Run]:
        """One run a seed, with the best learning rate of the finished tuning runs."""
        best = max(self.tuning_runs(arm), key=self.score)
        seeds = self.plan.arms[arm].get('seeds', self.plan.seeds)
        return [Run(arm, best.lr, seed) for seed in seeds]

    def unfinished(self) -> Iterator[Run]:
        """Tuning first, then all arms seed by seed: cut short, the study still has whole pairs."""
        for arm in dict.fromkeys(arm.tuned_as for arm in self.plan.arms.values()):
            yield from (run for run in self.tuning_runs(arm) if self.result(run) is None)
        runs = [run for arm in self.plan.arms for run in self.paired_runs(arm)]
        for run in sorted(runs, key=lambda run: self.plan.seeds.index(run.seed)):
            if self.result(run) is None:
                yield run

    def finished_runs(self, arm: str) -> list[Run]:
        """The paired runs of an arm that have a result; none before it is tuned."""
        if not all(self.result(run) for run in self.tuning_runs(arm)):
            return []
        return [run for run in self.paired_runs(arm) if self.result(run)]

    def difference(self, arm: str) -> Difference:
        """Compare an arm with the reference, seed by seed; nan without a pair."""
        scores, references = (
            {run.seed: self.score(run) for run in self.finished_runs(name)}
            for name in (arm, self.plan.reference)
        )
        gains = np.array([scores[seed] - references[seed] for seed in scores if seed in references])
        error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else float('nan')
        mean = gains.mean() if len(gains) else float('nan')
        return Difference(float(mean), float(error), len(gains))


def bootstrap_ap50(ann_file: str | Path, detections: list[dict], num_resamples: int) -> ndarray:
    """AP50 on images drawn with replacement: how much hangs on which images were tested.

    The draws depend on the number of images alone, so those of two models are paired.

    Args:
        ann_file (str | Path): COCO annotations.
        detections (list[dict]): COCO results: ``image_id``, ``category_id``, ``bbox``, ``score``.
        num_resamples (int): Number of draws of as many images as there are.

    Returns:
        ndarray: ``(num_resamples,)`` AP50 in [0, 1], mean over the classes.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ann_file)
        evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        num_images = len(evaluation.params.imgIds)
        by_class = np.array(evaluation.evalImgs, dtype=object).reshape(-1, num_images)
        rng = np.random.default_rng(0)
        ap50 = []
        for _ in range(num_resamples):
            drawn = rng.integers(num_images, size=num_images)
            evaluation.evalImgs = list(by_class[:, drawn].ravel())
            evaluation.accumulate()
            precision = evaluation.eval['precision']
            ap50.append(precision[precision > -1].mean())
    return np.array(ap50)
