"""What :mod:`castling_det.configs` says of a config."""

from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from castling_det.configs import (
    build_model,
    errors_with_place,
    input_shape,
    softmax_twin,
    task_of,
    type_name,
)
from castling_det.errors import InputError
from castling_det.models import CastlingLeViT
from castling_det.models.attention import CastlingAttention, SoftmaxAttention

CONFIGS = Path(__file__).parents[1] / 'configs'
LEVIT = CONFIGS / 'castling_picodet/castling-picodet_levit-128s_1xb8-40e_bccd-160x160.py'


@pytest.fixture
def cfg() -> Config:
    cfg = Config.fromfile(LEVIT)
    cfg.merge_from_dict(
        {'model.backbone.arch': 'nano', 'model.neck.in_channels': [32, 64, 128, 192]}
    )
    return cfg


def test_nothing_changes_the_config(cfg):
    before = deepcopy(cfg.to_dict())
    build_model(cfg)
    softmax_twin(cfg, (64, 96))
    task_of(cfg), input_shape(cfg)
    assert cfg.to_dict() == before


def test_twin_has_softmax_and_the_bias_grid_of_its_images(cfg):
    twin = build_model(softmax_twin(cfg, (64, 96)))
    assert not [m for m in twin.modules() if isinstance(m, CastlingAttention)]
    assert [m for m in twin.modules() if isinstance(m, SoftmaxAttention)]
    tables = [value.shape[1:] for key, value in twin.state_dict().items() if 'bias.table' in key]
    assert tables[0] == (4, 6)
    assert softmax_twin(cfg).model.backbone.bias_grid == (10, 10)


def test_only_castling_backbones_have_a_twin(cfg):
    cfg.model.backbone = dict(type='ResNet', depth=18)
    with pytest.raises(InputError, match='only a Castling backbone .* not ResNet'):
        softmax_twin(cfg)


def test_a_type_is_a_text_or_a_class():
    assert type_name(dict(type='castling_det.models.CastlingLeViT')) == 'CastlingLeViT'
    assert type_name(dict(type=CastlingLeViT)) == 'CastlingLeViT'
    assert type_name({}) == ''


def test_unknown_type_is_told_with_its_place(cfg):
    cfg.model.backbone.type = 'CastlingLevit'
    with pytest.raises(InputError) as error:
        build_model(cfg)
    assert f"{LEVIT}, model.backbone.type: no 'CastlingLevit' is registered" in str(error.value)
    assert 'CastlingLeViT' in str(error.value)


def test_unknown_argument_is_told_with_its_place(cfg):
    cfg.model.backbone.archh = '128s'
    with pytest.raises(InputError, match="model.backbone: CastlingLeViT takes no argument 'archh'"):
        build_model(cfg)


@pytest.mark.parametrize('error', [KeyError('a key'), TypeError("f() got 'x'"), KeyError()])
def test_other_errors_are_left_alone(cfg, error):
    with pytest.raises(type(error)), errors_with_place(cfg):
        raise error


def test_task_is_told_by_the_model():
    assert task_of(ConfigDict(model=dict(bbox_head={}))) == 'detection'
    assert task_of(ConfigDict(model=dict(decode_head={}))) == 'segmentation'
