"""What ``import castling_det`` brings, and where its types can be built from."""

import subprocess
import sys

import pytest


def run(script: str) -> str:
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_needs_torch_and_mmengine_alone():
    script = (
        'import sys, castling_det\n'
        'hosts = {"mmcv", "mmdet", "mmseg", "mmpretrain", "torchvision"}\n'
        'print(sorted(hosts & {name.partition(".")[0] for name in sys.modules}))'
    )
    assert run(script) == '[]'


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_a_plain_type_name_builds_in_the_host(host):
    script = (
        f'import castling_det\n'
        f'from mmengine.registry import init_default_scope\n'
        f'from {host}.registry import MODELS\n'
        f'init_default_scope("{host}")\n'
        f'model = MODELS.build(dict(type="CastlingLeViT", arch="nano", out_indices=(1, 3)))\n'
        f'print(type(model).__name__, model.out_indices)'
    )
    assert run(script).endswith('CastlingLeViT (1, 3)')
