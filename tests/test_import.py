"""What ``import castling_det`` brings, and where its types can be built from."""

import subprocess
import sys
from importlib import import_module

import pytest
from mmengine.registry import DefaultScope

from castling_det.models import CastlingLeViT


def run(script: str) -> str:
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_needs_torch_and_mmengine_alone():
    script = (
        'import sys, castling_det\n'
        'hosts = {"mmcv", "mmdet", "mmseg", "mmpretrain", "timm", "torchvision"}\n'
        'print(sorted(hosts & {name.partition(".")[0] for name in sys.modules}))'
    )
    assert run(script) == '[]'


def test_predictor_brings_the_libraries_of_its_model_alone():
    script = (
        'import sys, castling_det\n'
        'assert "castling_det.inference" not in sys.modules\n'
        'castling_det.Predictor\n'
        'hosts = {"mmdet", "mmseg", "mmpretrain", "onnxruntime"}\n'
        'print(sorted(hosts & {name.partition(".")[0] for name in sys.modules}))'
    )
    assert run(script) == '[]'


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_a_plain_type_name_builds_in_the_host(host):
    models = import_module(f'{host}.registry').MODELS
    with DefaultScope.overwrite_default_scope(host):
        model = models.build(dict(type='CastlingLeViT', arch='nano', out_indices=(1, 3)))
    assert isinstance(model, CastlingLeViT) and model.out_indices == (1, 3)
