"""The configs of real data sets on real files: counts, classes, and truth scored as prediction."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

import castling_det  # noqa: F401  registers types

CONFIGS = Path(__file__).parents[1] / 'configs' / 'castling_picodet'


def load(name: str) -> Config:
    cfg = Config.fromfile(CONFIGS / name)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.data('det/bccd')
@pytest.mark.parametrize(('split', 'images', 'boxes'), [('train', 205, 2804), ('val', 87, 1137)])
def test_blood_cells(data_root, split, images, boxes):
    cfg = load('castling-picodet_levit-128s_1xb8-60e_bccd-320x320.py')
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    assert len(dataset) == images
    instances = [i for n in range(images) for i in dataset.get_data_info(n)['instances']]
    assert len(instances) == boxes
    assert {i['bbox_label'] for i in instances} == {0, 1, 2}
    sample = dataset[0]
    assert sample['inputs'].shape == (3, 320, 320)
    assert len(sample['data_samples'].gt_instances) > 0


@pytest.mark.data('det/coco_small')
def test_truth_scored_as_prediction_is_perfect(data_root):
    """Holds labels, the 91-to-80 category mapping and the boxes' scale together."""
    cfg = load('castling-picodet_levit-128s_1xb8-100e_coco32-320x320.py')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(dataset) == 32
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        (sample,) = pseudo_collate([dataset[index]])['data_samples']
        truth = sample.gt_instances
        boxes = truth.bboxes.tensor  # in the original image, as predictions are
        sample.pred_instances = truth.new(
            bboxes=boxes, labels=truth.labels, scores=torch.ones(len(boxes))
        )
        metric.process({}, [sample.to_dict()])
    assert metric.compute_metrics(metric.results)['bbox_mAP'] == pytest.approx(1, abs=1e-3)
