"""Logs as mmengine writes them: read, joined, drawn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from castling_det.analysis.train_log import plot_logs, read_log
from castling_det.errors import InputError


def train(iteration: int, loss: float, **fields: float) -> dict:
    epoch = 1 + (iteration - 1) // 20
    place = dict(epoch=epoch, iter=iteration, step=iteration)
    return dict(lr=0.1, loss=loss, time=0.5, **fields, **place)


def val(epoch: int, mean_ap: float) -> dict:
    return {'coco/bbox_mAP': mean_ap, 'time': 9.0, 'data_time': 9.0, 'step': epoch}


def write_log(work_dir: Path, start: str, *lines: dict, tail: str = '') -> Path:
    path = work_dir / start / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(f'{json.dumps(line)}\n' for line in lines) + tail)
    return path


def points(log: dict, field: str) -> list[tuple[int, float]]:
    iterations, values = log[field]
    assert iterations.dtype == np.int64 and values.dtype == np.float64
    return list(zip(iterations.tolist(), values.tolist(), strict=True))


def test_metrics_stand_at_the_iteration_before_them(tmp_path):
    lines = train(10, 3.0), train(20, 2.0, loss_cls=1.5), val(1, 0.25), train(30, 1.0)
    log = read_log(write_log(tmp_path, '20260101_000000', *lines))
    assert points(log, 'loss') == [(10, 3.0), (20, 2.0), (30, 1.0)]
    assert points(log, 'loss_cls') == [(20, 1.5)]
    assert points(log, 'coco/bbox_mAP') == [(20, 0.25)]
    assert points(log, 'time') == [(10, 0.5), (20, 0.5), (30, 0.5)]
    assert set(log) == {'coco/bbox_mAP', 'loss', 'loss_cls', 'lr', 'time'}


def test_resumed_run_replaces_what_it_did_again(tmp_path):
    first = train(10, 3.0), train(20, 2.0), val(1, 0.2), train(30, 9.0), train(40, 9.0), val(2, 0.9)
    write_log(tmp_path, '20260101_000000', *first)
    write_log(tmp_path, '20260102_000000', train(30, 1.5), train(40, 1.0), val(2, 0.4))
    write_log(tmp_path, '20260103_000000')
    log = read_log(tmp_path)
    assert points(log, 'loss') == [(10, 3.0), (20, 2.0), (30, 1.5), (40, 1.0)]
    assert points(log, 'coco/bbox_mAP') == [(20, 0.2), (40, 0.4)]


def test_scalars_of_a_hook_stand_at_their_step(tmp_path):
    def hook(iteration: int, ramp: float) -> dict:
        return dict(ramp=ramp, step=iteration)

    first = hook(10, 0.1), train(10, 3.0), hook(20, 0.2), train(20, 2.0), val(1, 0.2)
    write_log(tmp_path, '20260101_000000', *first, hook(30, 0.9))
    write_log(tmp_path, '20260102_000000', hook(30, 0.3), train(30, 1.5))
    log = read_log(tmp_path)
    assert points(log, 'ramp') == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert points(log, 'coco/bbox_mAP') == [(20, 0.2)]


def test_new_training_in_an_old_work_dir_stands_alone(tmp_path):
    write_log(
        tmp_path, '20260101_000000', train(10, 3.0, loss_dfl=1.0), train(20, 2.0), val(1, 0.2)
    )
    write_log(tmp_path, '20260102_000000', train(10, 5.0))
    log = read_log(tmp_path)
    assert points(log, 'loss') == [(10, 5.0)]
    assert set(log) == {'loss', 'lr', 'time'}


def test_cut_off_last_line_is_left_out_and_any_other_is_an_error(tmp_path):
    path = write_log(tmp_path, '20260101_000000', train(10, 3.0), tail='{"lr": 0.1, "lo')
    assert points(read_log(path), 'loss') == [(10, 3.0)]
    path.write_text(f'{{"lr"\n{path.read_text()}')
    with pytest.raises(ValueError, match='scalars.json, line 1, is not json'):
        read_log(path)


def test_nothing_to_read_is_named(tmp_path):
    with pytest.raises(InputError, match='neither a json log nor a work dir'):
        read_log(tmp_path)
    with pytest.raises(InputError, match='no.json is neither'):
        read_log(tmp_path / 'no.json')
    write_log(tmp_path, '20260101_000000')
    with pytest.raises(ValueError, match='holds no line yet'):
        read_log(tmp_path)


def test_each_field_is_a_panel_and_each_run_a_line(tmp_path):
    write_log(tmp_path / 'a', '20260101_000000', train(10, 3.0), train(20, 2.0), val(1, 0.2))
    write_log(tmp_path / 'b', '20260101_000000', train(10, 4.0))
    logs = {name: read_log(tmp_path / name) for name in 'ab'}
    figure = plot_logs(logs, ['*mAP', 'loss*', 'loss'])
    assert [panel.get_title() for panel in figure.axes] == ['coco/bbox_mAP', 'loss']
    drawn = [line.get_xydata().tolist() for line in figure.axes[1].lines]
    assert drawn == [[[10, 3.0], [20, 2.0]], [[10, 4.0]]]
    assert [len(line.get_xydata()) for line in figure.axes[0].lines] == [1, 0]
    assert [text.get_text() for text in figure.legends[0].texts] == ['a', 'b']
    with pytest.raises(ValueError, match=r'no field fits acc; there are coco/bbox_mAP, loss'):
        plot_logs(logs, ['acc'])


def test_tool_writes_a_png(tmp_path, call, refusal):
    write_log(tmp_path / 'a', '20260101_000000', train(10, 3.0), train(20, 2.0), val(1, 0.2))
    out = tmp_path / 'new' / 'a.png'
    printed = call('plot_log', tmp_path / 'a', '--out', out)
    assert printed == f'runs drawn: 1; see {out}\n'
    picture = cv2.imread(str(out))
    assert picture.shape[1] > 1000 and picture.std() > 5
    said = f'error: {tmp_path}/b is neither'
    assert refusal('plot_log', tmp_path / 'b', '--out', out).startswith(said)
