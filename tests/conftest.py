"""What every test starts from."""

import gc
import json
import os
import time

import pytest
import torch
from helpers import small_run
from mmengine.registry import init_default_scope

from mmsnclr.datasets.digits import write_digits
from mmsnclr.engine import build_runner


def pytest_configure(config):
    """Hide CUDA devices from all but `pytest -m gpu`.

    Tests fork processes that train, and torch forbids that once autograd has threads of its own. It
    starts one for each device that it knows at its first use: here none, before a fake CUDA device
    of a test counts as one.
    """
    if config.option.markexpr != 'gpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
        torch.ones(1, requires_grad=True).backward()


def pytest_collection_finish():
    """Keep what was imported out of garbage collections; mmengine has one for each data set."""
    gc.freeze()


_LONG = {'gpus', 'interruption', 'ranks', 'config_runs', 'non_finite', 'demo', 'tutorial', 'tools'}


def pytest_collection_modifyitems(items):
    """Long files first, so that none of the processes works alone at the end."""
    items.sort(key=lambda item: item.path.stem.removeprefix('test_') not in _LONG)


@pytest.fixture(scope='session', autouse=True)
def _cache(tmp_path_factory):
    """A cache of the tests' own."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A few of the demo's pictures."""
    folder = tmp_path_factory.mktemp('digits')
    return write_digits(folder, unlabelled=96, labelled=(60, 30), scenes=(8, 4))


@pytest.fixture(scope='session')
def trained(digits, tmp_path_factory):
    """Folder of a short run on the small pictures, which was resumed once."""
    folder = tmp_path_factory.mktemp('trained')
    init_default_scope('mmpretrain')
    for epochs, resume in ((1, False), (2, True)):
        options = {'train_cfg.max_epochs': epochs, 'default_hooks.checkpoint.max_keep_ckpts': 1}
        build_runner(small_run(digits, folder, resume=resume, **options)).train()
        time.sleep(1)  # logs are in folders that are named by the second
    return folder


@pytest.fixture(scope='session')
def scenes(digits):
    """The pictures with boxes and masks, in COCO's format."""
    return digits / 'scenes'


@pytest.fixture
def content(scenes):
    """What the COCO file of their training part holds."""
    return json.loads((scenes / 'train.json').read_text())
