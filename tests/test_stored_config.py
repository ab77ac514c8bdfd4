"""Configs in checkpoints: what mmengine writes is read, and nothing that it names is called."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from castling_det.configs import build_model
from castling_det.errors import InputError
from castling_det.stored_config import stored_config

ROOT = Path(__file__).parents[1]
LEAVES = [
    'castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512',
    'castling_mvit/castling-mask-rcnn_mvit-t-in1k-pre_8xb8-36e_coco-640x640',
    'castling_mask2former/castling-mask2former-nano_vit-nano_1xb4-1500i_camvid-192x256',
    'castling_cls/castling-cls_levit-nano_1xb16-30e_flowers5-160x160',
]
PLAIN = """
model = dict(type='mmdet.SingleStageDetector', {model})
test_dataloader = dict(dataset=dict(type='CocoDataset', {data}))
{more}
"""


def write(path: Path, text: str) -> Path:
    torch.save(dict(state_dict={}, meta=dict(cfg=text)), path)
    return path


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda leaf: leaf.partition('/')[2])
def test_what_predicting_needs_is_as_in_the_file(leaf, tmp_path):
    cfg = Config.fromfile(ROOT / 'configs' / f'{leaf}.py')
    stored = stored_config(write(tmp_path / 'a.pth', cfg.pretty_text))
    for key in ('model', 'test_dataloader', 'default_scope'):
        assert stored[key] == cfg[key]
    assert stored.filename == str(tmp_path / 'a.pth')


def test_types_by_their_path_are_those_of_the_libraries(tmp_path):
    """As Python-style configs are written out."""
    backbone = "type='castling_det.models.levit.CastlingLeViT', arch='nano'"
    activation = "act_cfg={'type': 'torch.nn.modules.activation.GELU', 1: (2.5, -1, None)}"
    text = PLAIN.format(model=f'backbone=dict({backbone}), {activation}', data='', more='x = y.z')
    model = stored_config(write(tmp_path / 'a.pth', text)).model
    assert model.act_cfg[1] == (2.5, -1, None)
    cfg = Config(dict(model=model.backbone))
    assert type(build_model(cfg)).__name__ == 'CastlingLeViT'


@pytest.mark.parametrize(
    ('place', 'value', 'reason'),
    [
        ('model', "a=__import__('os').system('{command}')", 'malformed node'),
        ('model', "a=dict(type='os.system', command='{command}')", "type 'os.system'"),
        ('model', "a=(dict(type='os.system'),)", "type 'os.system'"),
        ('model', "a=[{'type': 'subprocess.Popen'}]", "type 'subprocess.Popen'"),
        ('model', "a=dict({'type': 'builtins.eval'})", "type 'builtins.eval'"),
        ('model', 'nms=dict(type=\'__import__("os").system("{command}")\')', 'the type'),
        ('model', "a=dict(type='mmengine.utils.package_utils.call_command')", 'the type'),
        ('model', "a=dict(type='mmengine.runner.runner.time.sleep')", 'the type'),
        ('model', "a=dict(type='torch.load')", "type 'torch.load'"),
        ('model', "a=dict(type='torch.nn.modules.module.OrderedDict')", 'the type'),
        ('model', "a=dict(type='torchvision/ConvertImageDtype')", 'the type'),
        ('data', "pipeline=[dict(type='os.system')]", "type 'os.system'"),
        ('model', "a=dict(type='AutoModel', trust_remote_code=True)", 'trust_remote_code'),
        ('model', '**dict(a=1)', 'calls dict with more'),
        ('more', "custom_imports = dict(imports=['antigravity'])", 'not of castling_det'),
        ('more', "custom_imports = dict(imports='castling_det.no_such')", 'no_such'),
        ('more', "default_scope = 'os'", "default_scope is 'os'"),
        ('more', 'model = 1 +', 'invalid syntax'),
        ('more', 'default_scope = ' + '(' * 300, 'too many nested'),
    ],
)
def test_nothing_is_called(tmp_path, place, value, reason):
    command = f'touch {tmp_path}/called'
    parts = dict(model='', data='', more='') | {place: value.replace('{command}', command)}
    checkpoint = write(tmp_path / 'a.pth', PLAIN.format(**parts))
    with pytest.raises(InputError, match=f'the config in .*a.pth is not read: .*{reason}') as error:
        stored_config(checkpoint)
    assert str(error.value).endswith('give that too, Predictor(config, checkpoint)')
    assert not (tmp_path / 'called').exists()


@pytest.mark.parametrize('meta', [{}, dict(cfg=dict(model=1)), 'text'], ids=repr)
def test_no_config_in_it(tmp_path, meta):
    torch.save(dict(state_dict={}, meta=meta), tmp_path / 'a.pth')
    with pytest.raises(InputError, match='a.pth holds no config, as weights to start'):
        stored_config(tmp_path / 'a.pth')


def test_config_of_another_kind(tmp_path):
    with pytest.raises(InputError, match='there is no test_dataloader'):
        stored_config(write(tmp_path / 'a.pth', "model = dict(type='MAE')"))
