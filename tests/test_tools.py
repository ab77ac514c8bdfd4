"""The README's commands on a few tiny scenes: a training as a subprocess, all else in this one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.models.test_time_augs import DetTTAModel, det_tta
from mmengine.fileio import dump, load
from PIL import Image

from castling_det.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]
DEMO = 'castling_picodet/castling-picodet_levit-nano_1xb16-8e_shapes-64x512.py'

# The demo, made short: 8 scenes learnt by heart and tested on themselves.
LEAF = """
_base_ = 'castling_det::{demo}'

scenes = dict(
    data_root='{root}/shapes/',
    ann_file='annotations/train.json',
    data_prefix=dict(img='images/train/'),
)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(scenes, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ])
)
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=scenes)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{root}/shapes/annotations/train.json')
test_evaluator = val_evaluator
max_epochs = 32
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, convert_to_iter_based=True)]
default_hooks = dict(checkpoint=dict(interval=16))
randomness = dict(seed=0)
"""

SEG_DEMO = 'castling_seg/castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py'

# The segmentor of the demo likewise, for half a minute.
SEG_LEAF = """
_base_ = 'castling_det::{demo}'

scenes = dict(
    data_root='{root}/shapes/',
    data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(scenes, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ])
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=scenes)
test_dataloader = val_dataloader
max_iters = 60
train_cfg = dict(max_iters=max_iters, val_interval=30)
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=max_iters)]
default_hooks = dict(checkpoint=dict(interval=30))
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


def log_of(work_dir: Path) -> str:
    """What the last run wrote into its log file."""
    return max(work_dir.glob('*/*.log')).read_text()


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory, call) -> tuple[Path, str]:
    """Folder of a demo detector, trained in two runs, and what the second one printed."""
    root = tmp_path_factory.mktemp('demo')
    call('make_shapes', root / 'shapes', '--num-train', 8, '--num-val', 1)
    (root / 'leaf.py').write_text(LEAF.format(demo=DEMO, root=root))
    train = ['tools/train.py', root / 'leaf.py', '--work-dir', root / 'work']
    output = run(*train, '--resume', '--cfg-options', 'train_cfg.max_epochs=16')
    assert (
        f'--resume: {root}/work holds no checkpoint; training starts from the beginning' in output
    )
    return root, call('train', *train[1:], '--resume')


def test_training_learns_and_says_where_it_left_things(demo):
    root, output = demo
    assert re.search(r'eta: .* loss: .* loss_cls: .* loss_bbox: .* loss_dfl: ', output)
    assert 'resumed epoch: 16, iter: 32' in output
    assert ap50(log_of(root / 'work')) > 0.3  # 0.68 to 0.89 over five seeds
    (best,) = (path for path in (root / 'work').glob('*.pth') if path.name != 'epoch_32.pth')
    assert best.name.startswith('best_coco_bbox_mAP_epoch_')
    assert f'Best checkpoint: {best}, coco/bbox_mAP 0.' in output
    assert f'Next: castling-det test {os.path.relpath(root / "leaf.py")} {best}' in output
    assert (root / 'work' / 'epoch_32.pth').is_file()


def test_training_begins_with_a_few_lines_and_leaves_the_rest_to_the_log(demo):
    root, output = demo
    before, _ = re.split(r'.* INFO.* - (?:Epoch\(train\)|train \[)', output, maxsplit=1)
    lines = before.splitlines()
    assert len(lines) <= 15, before
    for told in (r'M parameters, 6 classes', r'Log: .*\.log'):
        assert any(re.search(told, line) for line in lines)
    log = log_of(root / 'work')
    for noise in ('System environment', 'Config:\n', 'paramwise_options', 'Average Precision'):
        assert noise in log and noise not in output
    assert re.search(r'8 images .*, \d+ boxes', log)


def test_testing_repeats_the_metric_and_draws_truth_above_prediction(demo, call):
    root, _ = demo
    checkpoint, pictures = root / 'work' / 'epoch_32.pth', root / 'pictures'
    output = call(
        'test',
        *(root / 'leaf.py', checkpoint, '--work-dir', root / 'test'),
        *('--show-dir', pictures, '--out', root / 'predictions.pkl'),
    )
    assert ap50(output) == ap50(log_of(root / 'work'))
    assert len(load(root / 'predictions.pkl')) == 8
    drawn = sorted(pictures.glob('*'))
    assert len(drawn) == 8
    assert cv2.imread(str(drawn[0])).shape == (2 * (192 + 20), 1536, 3)  # each has a caption


def test_predictions_of_a_test_set_without_annotations(demo, call, refusal, tmp_path):
    """As COCO's image_info_test-dev2017.json; without --out there is nothing to be had."""
    root, _ = demo
    content = load(root / 'shapes' / 'annotations' / 'train.json')
    del content['annotations']
    dump(content, tmp_path / 'info.json')
    keys = ('test_dataloader.dataset.ann_file', 'test_evaluator.ann_file')
    options = ['--cfg-options', *(f'{key}={tmp_path}/info.json' for key in keys)]
    words = [root / 'leaf.py', root / 'work' / 'epoch_32.pth', '--work-dir', tmp_path, *options]
    assert 'set test_evaluator.format_only=True' in refusal('test', *words)
    assert 'bbox_mAP' not in call('test', *words, '--out', tmp_path / 'found.pkl')
    assert len(load(tmp_path / 'found.pkl')) == 8
    assert {'image_id', 'category_id', 'bbox', 'score'} == load(tmp_path / 'found.bbox.json')[
        0
    ].keys()


def test_training_form_is_another_detector_where_the_masks_are_not_empty(demo, call):
    root, _ = demo
    checkpoint = read_checkpoint(root / 'work' / 'epoch_32.pth')
    assert checkpoint['meta']['castling']['ramp'] == 1
    checkpoint['meta']['castling']['ramp'] = 0.0
    torch.save(checkpoint, root / 'ramp_0.pth')
    found = {}
    for form in ('inference', 'training'):
        out = root / f'{form}.pkl'
        command = [root / 'leaf.py', root / 'ramp_0.pth', '--work-dir', root / 'form']
        output = call('test', *command, '--form', form, '--out', out)
        assert ('training form, at the ramp 0.000' in output) == (form == 'training')
        found[form] = torch.cat([each['pred_instances']['scores'] for each in load(out)])
    assert found['inference'].shape != found['training'].shape or not torch.allclose(
        found['inference'], found['training']
    )


def test_test_time_augmentation_hands_both_views_to_nms(demo, monkeypatch, call):
    """The boxes of the mirrored view, mirrored back, beside those of the straight one."""
    root, _ = demo
    views, suppressed, nms = [], [], det_tta.batched_nms
    merge = DetTTAModel.merge_aug_bboxes

    def merge_aug_bboxes(self, boxes, scores, metas):
        merged = merge(self, boxes, scores, metas)
        views.append((metas, boxes, *merged))
        return merged

    def batched_nms(boxes, *words):
        suppressed.append(boxes)
        return nms(boxes, *words)

    monkeypatch.setattr(DetTTAModel, 'merge_aug_bboxes', merge_aug_bboxes)
    monkeypatch.setattr(det_tta, 'batched_nms', batched_nms)
    leaf, checkpoint = root / 'leaf.py', root / 'work' / 'epoch_32.pth'
    every = ['--cfg-options', 'model.test_cfg.score_thr=0.0']  # whatever the training has found
    call('test', leaf, checkpoint, '--work-dir', root / 'tta', '--tta', *every)
    assert len(views) == len(suppressed) == 8
    for (metas, (straight, mirrored), boxes, scores), given in zip(views, suppressed, strict=True):
        assert [meta['flip'] for meta in metas] == [False, True]
        assert min(len(straight), len(mirrored)) > 0
        back = mirrored.clone()
        back[:, [0, 2]] = metas[0]['ori_shape'][1] - mirrored[:, [2, 0]]
        torch.testing.assert_close(given, torch.cat([straight, back]))
        assert torch.equal(given, boxes) and len(scores) == len(boxes)


def test_dry_run_reports_and_leaves_nothing(demo, call):
    root, _ = demo
    before = sorted(root.glob('**/*'))
    output = call('train', root / 'leaf.py', '--work-dir', root / 'dry', '--dry-run', '--amp')
    assert 'no fault found' in output
    assert re.search(r'training    64 iterations, \d+:\d\d:\d\d: a step takes [\d.]+ s', output)
    assert 'validation  2 batches' in output
    assert float(re.search(r'memory      ([\d.]+) GiB', output).group(1)) > 0
    assert sorted(root.glob('**/*')) == before


def test_what_cannot_be_run_is_refused_in_one_sentence(demo, monkeypatch, refusal):
    root, _ = demo
    leaf, work = root / 'leaf.py', ['--work-dir', root / 'refused']
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    amp = ['--cfg-options', 'optim_wrapper.type=AmpOptimWrapper']
    assert 'AmpOptimWrapper needs a GPU' in refusal('train', leaf, *work, *amp)
    assert 'leave --resume out' in refusal('train', leaf, *work, '--dry-run', '--resume')
    missing = f'error: checkpoint {root}/no.pth does not exist'
    assert refusal('train', leaf, *work, '--resume', root / 'no.pth') == missing
    assert refusal('test', leaf, root / 'no.pth', *work) == missing
    assert 'is to end in .pkl' in refusal('test', leaf, root / 'no.pth', '--out', root / 'no.txt')
    options = ['--cfg-options', 'model.backbone.depth=3']
    said = f"error: {leaf}, model.backbone: CastlingLeViT takes no argument 'depth'"
    assert refusal('train', leaf, *work, *options).startswith(said)
    options = ['--cfg-options', 'train_dataloader.dataset.ann_file=no.json']
    assert f'{root}/shapes/no.json' in refusal('train', leaf, *work, *options)
    words = dict(train=[leaf, *work], test=[leaf, root / 'work' / 'epoch_32.pth', *work])
    for tool, split in (('train', 'val'), ('test', 'test')):
        for option, said in (('ann_file=None', 'no ann_file'), ('metric=segm', "take 'bbox'")):
            option = f'{split}_evaluator.{option}'
            assert said in refusal(tool, *words[tool], '--cfg-options', option)


def test_config_without_a_model_or_data(tmp_path, refusal):
    (tmp_path / 'leaf.py').write_text('optim_wrapper = dict()')
    (tmp_path / 'some.pth').touch()
    for tool, *words in (('train',), ('test', tmp_path / 'some.pth')):
        said = refusal(tool, tmp_path / 'leaf.py', *words, '--work-dir', tmp_path / 'work')
        assert said.startswith(f'error: config {tmp_path}/leaf.py has no model, no {tool}_dataload')
    assert 'there is nothing to check' in refusal('check_dataset', tmp_path / 'leaf.py')


def test_folder_that_takes_no_shapes(refusal):
    assert '/proc/shapes cannot be written (' in refusal('make_shapes', '/proc/shapes')


def test_segmentor_by_the_same_commands(tmp_path, call, refusal):
    leaf, work = tmp_path / 'leaf.py', ['--work-dir', tmp_path / 'work']
    call('make_shapes', tmp_path / 'shapes', '--num-train', 8, '--num-val', 1)
    leaf.write_text(SEG_LEAF.format(demo=SEG_DEMO, root=tmp_path))
    dry = call('train', leaf, *work, '--dry-run')
    assert 'training    60 iterations' in dry and 'validation  2 batches' in dry
    assert not (tmp_path / 'work').exists()

    trained = call('train', leaf, *work)
    scores = [float(score) for score in re.findall(r'Validation .*: mIoU ([\d.]+)', trained)]
    assert len(scores) == 2 and scores[1] > 40  # 63 to 66 over five seeds
    best = f'best_mIoU_iter_{30 if scores[0] >= scores[1] else 60}.pth'
    assert {path.name for path in (tmp_path / 'work').glob('*.pth')} == {best, 'iter_60.pth'}
    words = [leaf, tmp_path / 'work' / 'iter_60.pth', *work]
    found = []
    for mode in ('whole', 'slide'):  # the window is as large as the image
        out = tmp_path / mode
        tested = call('test', *words, '--out', out, '--cfg-options', f'model.test_cfg.mode={mode}')
        assert float(re.findall(r' mIoU: ([\d.]+)', tested)[-1]) == scores[1]
        found.append({file.name: np.asarray(Image.open(file)) for file in out.iterdir()})
    truth = tmp_path / 'shapes' / 'labels' / 'train'
    assert {file.name for file in truth.iterdir()} == set(found[0])
    for name, labels in found[0].items():
        assert np.array_equal(labels, found[1][name])
        assert (labels == np.asarray(Image.open(truth / name))).mean() > 0.8
    assert 'is to be a folder' in refusal('test', *words, '--out', tmp_path / 'labels.pkl')


@pytest.fixture
def untrained(tmp_path: Path, call) -> Path:
    """Folder with the leaf of the demo, without custom hooks, and one scene."""
    call('make_shapes', tmp_path / 'shapes', '--num-train', 1, '--num-val', 1)
    (tmp_path / 'leaf.py').write_text(LEAF.format(demo=DEMO, root=tmp_path) + 'custom_hooks = []\n')
    return tmp_path


def test_checkpoint_of_another_model_without_any_hook_of_the_config(untrained, refusal):
    torch.save(dict(state_dict={'stem.weight': torch.ones(3)}), untrained / 'other.pth')
    words = [untrained / 'leaf.py', '--work-dir', untrained / 'work']
    said = f'error: {untrained}/other.pth is of another model'
    assert refusal('test', *words, untrained / 'other.pth').startswith(said)
    load_from = ['--cfg-options', f'load_from={untrained}/other.pth']
    assert refusal('train', *words, *load_from).startswith(said)
    assert refusal('train', *words, '--resume', *load_from).startswith(said), 'none to resume'


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_damaged_image_is_found_before_training_and_testing(untrained, tool, refusal):
    (image,) = (untrained / 'shapes' / 'images' / 'train').iterdir()
    image.write_bytes(image.read_bytes()[:100])
    (untrained / 'some.pth').touch()
    checkpoint = [untrained / 'some.pth'] if tool == 'test' else []
    words = [untrained / 'leaf.py', *checkpoint, '--work-dir', untrained / 'work']
    said = refusal(tool, *words)
    assert f'{image.parent} cannot be read: mend them' in said and image.name in said


def test_study_named_by_its_plan_alone(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'plan.py').write_text("base = 'base.py'\narms = dict()\nreference = 'twin'")
    assert f'{tmp_path}.md' in refusal('studies/report_study', 'plan.py')
