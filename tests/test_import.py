"""What ``import castling_det`` brings, and where its types can be built from."""

import subprocess
import sys
from importlib import import_module

import pytest
from mmengine.registry import DefaultScope

from castling_det.models import CastlingLeViT


def test_imports_bring_what_is_needed_alone():
    """Of the package torch and mmengine; of the Predictor the libraries of its model, later."""
    script = (
        'import sys, castling_det\n'
        'hosts = {"mmcv", "mmdet", "mmseg", "mmpretrain", "timm", "torchvision", "onnxruntime"}\n'
        'loaded = lambda: hosts & {name.partition(".")[0] for name in sys.modules}\n'
        'print(sorted(loaded()), "castling_det.inference" in sys.modules)\n'
        'castling_det.Predictor\n'
        'print(sorted(loaded() & {"mmdet", "mmseg", "mmpretrain", "onnxruntime"}))'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['[] False', '[]']


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_a_plain_type_name_builds_in_the_host(host):
    models = import_module(f'{host}.registry').MODELS
    with DefaultScope.overwrite_default_scope(host):
        model = models.build(dict(type='CastlingLeViT', arch='nano', out_indices=(1, 3)))
    assert isinstance(model, CastlingLeViT) and model.out_indices == (1, 3)
