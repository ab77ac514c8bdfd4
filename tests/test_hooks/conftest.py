"""What the tests of hooks share: checkpoints are read as the tools have mmengine read them."""

import pytest

from castling_det.checkpoint import refuse_unsafe_checkpoints


@pytest.fixture(autouse=True, scope='session')
def safe_loading():
    refuse_unsafe_checkpoints()
