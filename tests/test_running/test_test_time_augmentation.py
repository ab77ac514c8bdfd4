from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config

from castling_det.running.test_time_augmentation import add_test_time_augmentation

CONFIGS = Path(__file__).parents[2] / 'configs' / 'castling_picodet'
DEMO = CONFIGS / 'castling-picodet_levit-nano_1xb16-16e_shapes-64x512.py'


@pytest.fixture
def cfg() -> Config:
    return Config.fromfile(DEMO)


def test_flips_stand_between_the_pipeline_and_its_last_transform(cfg):
    before = deepcopy(cfg)
    add_test_time_augmentation(cfg)
    *transforms, last = cfg.test_dataloader.dataset.pipeline
    *expected, pack = before.test_dataloader.dataset.pipeline
    assert transforms == expected and last.type == 'TestTimeAug'
    assert [flip.prob for flip in last.transforms[0]] == [0, 1]
    meta_keys = last.transforms[1][0].meta_keys
    assert meta_keys == (*pack.meta_keys, 'flip', 'flip_direction')
    assert cfg.model.module == before.model
    assert cfg.model.tta_cfg == dict(nms=before.model.test_cfg.nms, max_per_img=100)
    assert cfg.val_dataloader == before.val_dataloader


def test_what_the_config_says_comes_first(cfg):
    cfg.tta_model = dict(type='Other')
    cfg.tta_pipeline = [dict(type='Only')]
    add_test_time_augmentation(cfg)
    assert cfg.model.type == 'Other' and cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


def test_detector_without_nms(cfg):
    del cfg.model.test_cfg['nms']
    with pytest.raises(ValueError, match='tta_model'):
        add_test_time_augmentation(cfg)
