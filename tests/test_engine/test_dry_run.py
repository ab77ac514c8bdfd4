"""What a dry run makes of the times that it measured."""

import pytest

from castling_det.engine.dry_run import DryRun, seconds_a_batch


@pytest.mark.parametrize(
    ('load_seconds', 'num_workers', 'expected'), [(0.5, 0, 2.5), (0.5, 2, 2.0), (9.0, 3, 3.0)]
)
def test_workers_read_while_the_model_computes(load_seconds, num_workers, expected):
    assert seconds_a_batch(2.0, load_seconds, num_workers) == expected


def test_report_of_a_whole_training():
    dry_run = DryRun(
        device='cpu',
        num_processes=1,
        iterations=1000,
        step_seconds=2.0,
        load_seconds=0.5,
        num_workers=2,
        val_batches=40,
        val_seconds=1.5,
        memory_bytes=3 << 29,
    )
    assert dry_run.total_seconds == 1000 * 2.0 + 40 * 1.5
    report = dry_run.report()
    assert '1000 iterations, 0:33:20' in report and '40 batches, 0:01:00' in report
    assert 'whole       0:34:20' in report and '1.50 GiB' in report
