"""What every test starts from."""

import pytest
from mmengine.registry import init_default_scope

from mmsnclr.datasets.digits import write_digits


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A few of the demo's pictures."""
    folder = tmp_path_factory.mktemp('digits')
    return write_digits(folder, unlabelled=96, labelled=(60, 30), scenes=(8, 4))
