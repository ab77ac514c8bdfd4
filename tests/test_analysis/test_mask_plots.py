import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from castling_det.analysis.mask_plots import (
    example_image,
    layer_inputs,
    load_run,
    plot_masks,
    plot_nonzeros,
    read_nonzeros,
)
from castling_det.castling import castling_attentions
from castling_det.errors import InputError

ROOT = Path(__file__).parents[2]
STEM = 'castling-picodet_levit-nano_1xb16-8e_shapes-64x512'
CONFIG = ROOT / 'configs/castling_picodet' / f'{STEM}.py'


def line(step, ramp, a, b):
    return json.dumps({'ramp': ramp, 'nonzeros/a': a, 'nonzeros/b': b, 'step': step})


@pytest.fixture
def work_dir(tmp_path):
    """Two runs, the second one resumed from iteration 20 of the first, and its checkpoint."""
    runs = {
        '20260101_000000': [line(10, 0.2, 0.9, 0.1), line(20, 0.5, 0.4, 0.05), line(30, 0.8, 1, 1)],
        '20260101_000100': [
            json.dumps(dict(loss=1.0, nonzeros=0.1, step=25)),
            line(30, 0.8, 0.1, 0.0),
            line(40, 1.0, 0.0, 0.0),
        ],
    }
    for name, lines in runs.items():
        (tmp_path / name / 'vis_data').mkdir(parents=True)
        (tmp_path / name / 'vis_data' / 'scalars.json').write_text('\n'.join(lines) + '\n')
    cfg = Config.fromfile(CONFIG)
    (tmp_path / f'{STEM}.py').write_text(f"_base_ = '{CONFIG}'")
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'epoch_4.pth')
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_4.pth')
    return tmp_path


def test_the_resumed_run_replaces_what_it_repeats(work_dir):
    assert read_nonzeros(work_dir) == {
        10: dict(ramp=0.2, a=0.9, b=0.1),
        20: dict(ramp=0.5, a=0.4, b=0.05),
        30: dict(ramp=0.8, a=0.1, b=0.0),
        40: dict(ramp=1.0, a=0.0, b=0.0),
    }


def test_trajectories_are_drawn_in_percent(work_dir):
    shares, ramp = plot_nonzeros(read_nonzeros(work_dir)).axes
    lines = {drawn.get_label(): drawn for drawn in shares.lines}
    assert list(lines) == ['a', 'b']
    np.testing.assert_allclose(lines['a'].get_ydata(), [90, 40, 10, 0])
    np.testing.assert_allclose(lines['b'].get_xdata(), [10, 20, 30, 40])
    np.testing.assert_allclose(ramp.lines[0].get_ydata(), [0.2, 0.5, 0.8, 1])


def test_masks_of_the_query_over_the_image(work_dir):
    """Red is the share of the heads that keep a key, counted here from q and k."""
    _, model = load_run(work_dir)
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    figure = plot_masks(model, image, ramps=[0.0, 1.0], place=(0.99, 0.3))
    inputs = layer_inputs(model, image)
    names = [name for name, _ in castling_attentions(model)]
    assert list(inputs) == names and len(figure.axes) == 2 * len(names)
    for row, (name, given) in enumerate(inputs.items()):
        start, empty = figure.axes[2 * row : 2 * row + 2]
        assert start.get_title(loc='left') == name
        p = (given.q @ given.k.transpose(-2, -1) / given.q.shape[-1] ** 0.5).softmax(-1)[0]
        query = (given.q_hw[0] - 1) * given.q_hw[1] + int(0.3 * given.q_hw[1])
        red = (p[:, query] > 0.02).float().mean(0).reshape(given.kv_hw).numpy()
        np.testing.assert_allclose(start.images[1].get_array()[..., 3], 0.75 * red, atol=1e-6)
        assert start.get_xlabel() == f'ramp 0: {(p > 0.02).float().mean():.2%}'
        assert empty.get_xlabel() == 'ramp 1: 0.00%'
        assert not empty.images[1].get_array()[..., 3].any()


def test_example_image(work_dir, tmp_path):
    """A file is brought to the size of the test pipeline, in BGR."""
    blue = np.zeros((50, 60, 3), np.uint8)
    blue[..., 0] = 200
    cv2.imwrite(str(tmp_path / 'blue.png'), blue)
    cfg, _ = load_run(work_dir)
    image = example_image(cfg, tmp_path / 'blue.png')
    assert image.shape == (64, 512, 3) and (image == (200, 0, 0)).all()
    with pytest.raises(InputError, match='no.png'):
        example_image(cfg, tmp_path / 'no.png')


def test_tool_writes_both_pictures(work_dir, tmp_path, call):
    image = np.full((64, 512, 3), 128, np.uint8)
    cv2.imwrite(str(tmp_path / 'grey.png'), image)
    out = tmp_path / 'pictures'
    printed = call('plot_masks', work_dir, '--out', out, '--image', tmp_path / 'grey.png')
    for name in ('nonzeros.png', 'masks.png'):
        assert cv2.imread(str(out / name)).std() > 10
        assert f'Picture: {out / name}' in printed


def test_what_is_missing_is_named(work_dir):
    with pytest.raises(InputError, match='neither a json log nor a work dir'):
        read_nonzeros(work_dir / '20260101_000000')
    twin = work_dir / 'twin' / '20260101_000000' / 'vis_data'
    twin.mkdir(parents=True)
    (twin / 'scalars.json').write_text(json.dumps(dict(loss=1.0, iter=1, step=1)) + '\n')
    with pytest.raises(InputError, match=r'no \*/vis_data/scalars.json with nonzeros'):
        read_nonzeros(work_dir / 'twin')
    (work_dir / 'other.py').write_text('')
    with pytest.raises(ValueError, match='several configs, leave one: castling-.*, other.py'):
        load_run(work_dir)
    (work_dir / 'other.py').unlink()
    (work_dir / 'last_checkpoint').unlink()
    with pytest.raises(InputError, match='last_checkpoint'):
        load_run(work_dir)


def test_inference_form_has_no_masks(work_dir):
    _, model = load_run(work_dir)
    for _, attention in castling_attentions(model):
        attention.switch_to_deploy()
    with pytest.raises(ValueError, match='no auxiliary branch'):
        plot_masks(model, np.zeros((64, 64, 3), np.uint8), [0.0])
