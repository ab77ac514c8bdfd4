"""Which exceptions become one sentence, and which keep their traceback."""

import pytest
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS, DefaultScope
from torch import nn
from torch.optim import SGD

from castling_det.running.cli import errors_in_one_sentence, load_config

DEMO = 'castling_det::castling_picodet/castling-picodet_levit-nano_1xb16-16e_shapes-64x512.py'


@MODELS.register_module()
class FaultyModel(nn.Module):
    """A model with the programming errors that a config must not be blamed for."""

    def __init__(self, fault: str, width: int = 1) -> None:
        super().__init__()
        if fault == 'argument':
            nn.Linear(width, 1, width=width)
        if fault == 'key':
            {}['nothing']
        if fault == 'value':
            nn.Linear(1, 1).load_state_dict(dict(), strict=int('x'))


@MODELS.register_module()
class PassesOn(FaultyModel):
    def __init__(self, depth: int = 1, **kwargs) -> None:
        super().__init__(**kwargs)


def sentence(cfg: dict, registry=MODELS, default_args: dict | None = None) -> str:
    with DefaultScope.overwrite_default_scope('mmdet'), pytest.raises(SystemExit) as left:  # noqa: SIM117
        with errors_in_one_sentence():
            registry.build(cfg, default_args=default_args)
    assert '\n' not in left.value.code
    return left.value.code


def test_unknown_argument_is_named_beside_those_that_exist():
    text = sentence(dict(type='CastlingLeViT', arch='nano', dept=3))
    assert "CastlingLeViT takes no argument 'dept', only arch, attn, out_indices" in text
    assert "in dict(type='CastlingLeViT', arch='nano', dept=3)" in text


def test_unknown_argument_inside_of_a_type():
    attn = dict(type='CastlingAttention', treshold=1)
    text = sentence(dict(type='CastlingLeViT', arch='nano', attn=attn))
    assert "CastlingAttention takes no argument 'treshold'" in text


def test_unknown_argument_that_a_parent_refuses():
    text = sentence(dict(type='PassesOn', fault='', wdth=1))
    assert "PassesOn takes no argument 'wdth', only depth, fault, width" in text


def test_missing_argument():
    text = sentence(dict(type='LCPAN', in_channels=[1, 2, 3]))
    assert "LCPAN missing 1 required positional argument: 'out_channels'" in text


def test_long_dicts_are_cut():
    text = sentence(dict(type='CastlingLeViT', arch='nano', dept='x' * 1000))
    assert len(text) < 500


def test_argument_of_a_scheduler_that_is_converted_to_iterations():
    optimizer = SGD([nn.Parameter()], lr=1)
    cfg = dict(type='CosineAnnealingLR', T_max=2, convert_to_iter_based=True, warmup=1)
    text = sentence(cfg, PARAM_SCHEDULERS, dict(optimizer=optimizer, epoch_length=3))
    assert "CosineAnnealingLR takes no argument 'warmup'" in text


@pytest.mark.parametrize(
    ('cfg', 'registry', 'nearest'),
    [
        (dict(type='CastlingLevit'), MODELS, 'CastlingLeViT'),
        (dict(type='SingleStageDetecto'), MODELS, 'SingleStageDetector'),
        (dict(type='CastleHook'), HOOKS, 'CastlingHook'),
    ],
)
def test_unknown_type_and_the_nearest_known(cfg, registry, nearest):
    text = sentence(cfg, registry)
    assert f'type {cfg["type"]!r} is not registered as one of the {registry.name}s' in text
    assert nearest in text and 'custom_imports' in text


def test_missing_type():
    assert 'must contain the key "type"' in sentence(dict(arch='nano'))


def test_wrong_value_refused_by_us():
    assert "CastlingLeViT has no arch 'huge'" in sentence(dict(type='CastlingLeViT', arch='huge'))


@pytest.mark.parametrize(
    ('change', 'place', 'said'),
    [
        ({'backbone.arch': 'foo'}, ', model.backbone', "CastlingLeViT has no arch 'foo'"),
        ({'neck.type': 'Foo'}, ', model.neck', "type 'Foo' is not registered"),
        ({'backbone.attn.scale': 2}, ', model.backbone.attn', "takes no argument 'scale'"),
        ({'bbox_head.depth': 2}, ', model.bbox_head', "takes no argument 'depth'"),  # has train_cfg
    ],
)
def test_file_and_place_in_the_config(tmp_path, change, place, said):
    (tmp_path / 'leaf.py').write_text(f"_base_ = '{DEMO}'")
    with pytest.raises(SystemExit) as left, errors_in_one_sentence():
        cfg = load_config(tmp_path / 'leaf.py')
        cfg.merge_from_dict({f'model.{key}': value for key, value in change.items()})
        with DefaultScope.overwrite_default_scope('mmdet'):
            MODELS.build(cfg.model)
    assert left.value.code.startswith(f'error: in {tmp_path}/leaf.py{place}: ')
    assert said in left.value.code


def test_file_alone_where_the_dict_is_not_in_the_config(tmp_path):
    (tmp_path / 'leaf.py').write_text("model = dict(type='CastlingLeViT', arch='nano')")
    with pytest.raises(SystemExit) as left, errors_in_one_sentence():
        cfg = load_config(tmp_path / 'leaf.py')
        MODELS.build({**cfg.model, 'arch': 'foo'})
    assert left.value.code.startswith(f'error: in {tmp_path}/leaf.py: CastlingLeViT has no arch')


@pytest.mark.parametrize(
    ('fault', 'error'), [('argument', TypeError), ('key', KeyError), ('value', ValueError)]
)
def test_programming_errors_keep_their_traceback(fault, error):
    with pytest.raises(error), errors_in_one_sentence():
        MODELS.build(dict(type='FaultyModel', fault=fault))


def test_errors_outside_of_building_keep_their_traceback():
    with pytest.raises(KeyError), errors_in_one_sentence():
        {}['nothing']
