"""The README's commands as subprocesses, on a few tiny scenes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from mmengine.fileio import load

ROOT = Path(__file__).parents[1]
DEMO = 'castling_picodet/castling-picodet_levit-nano_1xb16-15e_shapes-160x160.py'

# The demo, made short: 32 scenes learnt by heart and tested on themselves.
LEAF = """
_base_ = 'castling_det::{demo}'

scenes = dict(
    data_root='{root}/shapes/',
    ann_file='annotations/train.json',
    data_prefix=dict(img='images/train/'),
)
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(scenes, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ])
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=scenes)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{root}/shapes/annotations/train.json')
test_evaluator = val_evaluator
max_epochs = 60
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, convert_to_iter_based=True)]
randomness = dict(seed=0)
"""


def run(*args: object) -> str:
    """Run a tool in the repository, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


def ap50(output: str) -> float:
    return float(re.findall(r'coco/bbox_mAP_50: ([\d.]+)', output)[-1])


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a demo detector, trained in two runs, and what the second one printed."""
    root = tmp_path_factory.mktemp('demo')
    run('tools/make_shapes.py', root / 'shapes', '--num-train', 32, '--num-val', 1)
    (root / 'leaf.py').write_text(LEAF.format(demo=DEMO, root=root))
    train = ['tools/train.py', root / 'leaf.py', '--work-dir', root / 'work']
    run(*train, '--cfg-options', 'train_cfg.max_epochs=20')
    return root, run(*train, '--resume')


def test_training_learns_and_says_where_it_left_things(demo):
    root, output = demo
    assert re.search(r'eta: .* loss: .* loss_cls: .* loss_bbox: .* loss_dfl: ', output)
    assert 'resumed epoch: 20, iter: 80' in output
    assert ap50(output) > 0.6
    assert f'Checkpoints: {root}/work' in output
    assert (root / 'work' / 'epoch_60.pth').is_file()


def test_testing_repeats_the_metric_and_draws_truth_beside_prediction(demo):
    root, training = demo
    checkpoint, pictures = root / 'work' / 'epoch_60.pth', root / 'pictures'
    output = run(
        'tools/test.py',
        *(root / 'leaf.py', checkpoint),
        *('--show-dir', pictures, '--out', root / 'predictions.pkl'),
    )
    assert ap50(output) == ap50(training)
    assert len(load(root / 'predictions.pkl')) == 32
    drawn = sorted(pictures.glob('*'))
    assert len(drawn) == 32
    assert cv2.imread(str(drawn[0])).shape == (160, 320, 3)


def test_missing_checkpoint_is_named(demo):
    root, _ = demo
    command = [sys.executable, 'tools/test.py', root / 'leaf.py', root / 'no.pth']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f'checkpoint {root}/no.pth does not exist' in done.stderr
