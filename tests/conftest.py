"""What the tests share: the data sets that only some machines have, and the GPU marker."""

import os
from collections.abc import Iterator
from pathlib import Path

# On shared cores a parallel region of torch waits longer than the tests' small tensors take.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

import castling_det  # noqa: F401  mmcv.ops can be imported from here on, compiled or not

DATA_VARIABLE = 'CASTLING_DET_DATA'


@pytest.fixture(autouse=True, scope='session')
def quick_runners() -> Iterator[None]:
    """mmengine asks compilers and git for versions when it builds a Runner, saves a checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.setattr('mmengine.runner.runner.get_git_hash', str)
        yield


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> Path:
    """Root of the data sets, for a test marked with the folders of it that the test reads.

    The test skips where ``CASTLING_DET_DATA`` is not set, and fails where it is set and a folder is
    missing.
    """
    if DATA_VARIABLE not in os.environ:
        pytest.skip(f'{DATA_VARIABLE} is not set')
    root = Path(os.environ[DATA_VARIABLE])
    for folder in ('', *request.node.get_closest_marker('data').args):
        if not (root / folder).is_dir():
            pytest.fail(
                f'{DATA_VARIABLE} is set, but {root / folder} does not exist: unset it to skip the '
                'tests of real data'
            )
    return root


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests marked ``gpu`` where there is none."""
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('no CUDA device')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Turn a skipped ``data`` test into a failed one where the data is there."""
    report = yield
    if report.skipped and item.get_closest_marker('data') and DATA_VARIABLE in os.environ:
        report.outcome = 'failed'
        report.longrepr = f'skipped although {DATA_VARIABLE} is set: {report.longrepr}'
    return report
