"""What dropping the auxiliary branches would cost at this point of the training."""

import math
from itertools import islice
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from castling_det.castling import castling_attentions, training_form


@HOOKS.register_module()
class GapHook(Hook):
    """Log the gap before each validation: every metric with aux minus the same without.

    Both are measured on the first batches of the validation set, with the weights that the
    validation sees (those averaged by EMAHook) and the training's present ramp. At ramp 1 both
    forms are the same, the gap is 0 by construction, and nothing runs. Goes to the Runner's
    visualizer as ``gap/METRIC``. It draws no random numbers: a training with it is the same one.

    Switched on in a config file by
    ``default_hooks = dict(gap=dict(type='GapHook', num_batches=8))``.

    Args:
        num_batches (int, optional): Size of the subset, a process. Defaults to None, the whole set.
    """

    priority = 'VERY_LOW'  # EMAHook has put its average in place before

    def __init__(self, num_batches: int | None = None) -> None:
        self.num_batches = num_batches

    def before_val_epoch(self, runner: Runner) -> None:
        ramps = [attention.ramp for _, attention in castling_attentions(runner.model)]
        if not ramps or min(ramps) >= 1:
            return
        runner.logger.info('The next two evaluations measure the gap: with aux, then without')
        runner.model.eval()
        with torch.random.fork_rng(devices=[]):
            with training_form(runner.model):
                with_aux = self._evaluate(runner)
            without = self._evaluate(runner)
        both = without.keys() & with_aux.keys()  # a form that finds no box has no metrics
        gap = {f'gap/{name}': with_aux[name] - without[name] for name in sorted(both)}
        gap = {name: value for name, value in gap.items() if math.isfinite(value)}
        runner.visualizer.add_scalars(gap, step=runner.iter)
        runner.logger.info('  '.join(f'{name}: {value:+.4f}' for name, value in gap.items()))

    @torch.no_grad()
    def _evaluate(self, runner: Runner) -> dict[str, float]:
        loop = runner.val_loop
        image_ids = []
        for batch in islice(loop.dataloader, self.num_batches):
            with autocast(enabled=loop.fp16):
                outputs = runner.model.val_step(batch)
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
            image_ids += [getattr(sample, 'img_id', None) for sample in outputs]
        image_ids = sum(all_gather_object(image_ids), [])
        size = min(len(loop.dataloader.dataset), len(image_ids))
        metrics = evaluate_seen(loop.evaluator, image_ids, size)
        return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def evaluate_seen(evaluator: Evaluator, image_ids: list, size: int) -> dict[str, Any]:
    """Metrics of the images that the evaluator has processed, as if there were no others.

    Args:
        evaluator (Evaluator): Of a validation.
        image_ids (list): Of these images, in all processes. COCO's metric would take every other
            image of its annotation file for a miss.
        size (int): How many they are.
    """
    coco = [metric for metric in evaluator.metrics if hasattr(metric, 'img_ids')]
    # Without an annotation file it makes its ground truth of what it has seen, and keeps it.
    before = [(metric.img_ids, getattr(metric, '_coco_api', None)) for metric in coco]
    for metric in coco:
        metric.img_ids = sorted(set(image_ids))
    try:
        return evaluator.evaluate(size)
    finally:
        for metric, (ids, truth) in zip(coco, before, strict=True):
            metric.img_ids, metric._coco_api = ids, truth
