import pytest
import report_speed
from report_speed import DOCS, table
from tables import fill_tables

from castling_det.analysis.latency import FORMS, Measurement, Memory, save
from castling_det.errors import InputError

MIB = 2**20


def measurement(model, form, mode, width, seconds, memory=None, macs=None):
    entry = (model, FORMS[form], mode, 'fp32', 'whole')
    return Measurement(*entry, (32, width), 'cpu', 1, seconds, memory, macs)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(report_speed, 'RUNS', tmp_path)
    ours, twin, file = 'ours_nano_1xb2-3e_toy-32x64', 'ours_nano_1xb2-3e_toy-32x64', 'ours_nano'
    measured = [
        measurement(
            ours, 'inference', 'eager', 32, (0.002, 0.004, 0.006), Memory(3 * MIB, 0), 25e6
        ),
        measurement(twin, 'twin', 'eager', 32, (0.004, 0.004, 0.006), Memory(1500 * MIB, 0), 5e9),
        measurement(file, 'inference', 'onnxruntime', 32, (0.012,) * 3),
        measurement(ours, 'inference', 'eager', 64, (0.02, 0.02, 0.02), Memory(6 * MIB, 0), 5e7),
        measurement(twin, 'twin', 'eager', 64, ()),
        measurement(file, 'inference', 'onnxruntime', 64, (1.5,) * 3),
    ]
    save(tmp_path / 'toy.json', dict.fromkeys(report_speed.CONDITIONS, 'x'), measured)


def test_ratios_are_to_the_first_row_of_the_same_runtime(runs):
    assert table('toy', 'ms') == [
        ['', '32', '32x64'],
        ['ours nano, eager', '4.0', '20'],
        ['ours nano, softmax twin, eager', '4.0 (1.00)', '*out of memory*'],
        ['ours nano, onnxruntime', '12', '1500'],
    ]


def test_rows_without_a_number_are_left_out(runs):
    assert table('toy', 'MiB')[1:] == [
        ['ours nano, eager', '3', '6'],
        ['ours nano, softmax twin, eager', '1,500', ''],
    ]
    assert table('toy', 'MACs')[1] == ['ours nano, eager', '0.03', '0.05']


def test_unknown_tables_are_refused(runs):
    with pytest.raises(InputError, match="no table 'mb' of a run: take ms, MiB"):
        table('toy', 'mb')
    with pytest.raises(InputError, match='none.json does not exist: run the benchmark'):
        table('none', 'ms')


def test_the_page_is_what_the_runs_say():
    page = (DOCS / 'performance.md').read_text()
    assert fill_tables(page, lambda name: table(*name.split())) == page
