"""A detector that the tests of `detect` and `predict` share."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from helpers import pretrained_resnet

from mmsnclr.api.detect import detect
from mmsnclr.datasets.scan import scan_into
from mmsnclr.engine.runner import ResumableRunner


@pytest.fixture(scope='session')
def comparison(scenes):
    """Arguments of `detect` for the backbone in a folder and a random one."""

    def arguments(folder):
        return dict(
            train_json=scenes / 'train.json',
            images=scenes / 'train',
            backbone=folder / 'snclr.pth',
            val_json=scenes / 'val.json',
            val_images=scenes / 'val',
            compare='random',
            size=64,
            iterations=2,
            batch=2,
            workers=0,
        )

    return arguments


@pytest.fixture(scope='session')
def run(comparison, scenes, tmp_path_factory):
    """A detector of a few steps, pretrained on what it is validated on, and what was said."""
    out = tmp_path_factory.mktemp('run')
    scan_into(out, [scenes / 'val'], None, None, 32)
    pretrained_resnet(out / 'snclr.pth', norm_cfg=dict(type='SyncBN'))
    with redirect_stdout(io.StringIO()) as said:
        detection = detect(**comparison(out), out=out / 'detector')
    return detection, out / 'detector', said.getvalue()


@pytest.fixture
def untrained(monkeypatch):
    """Detectors find what is put into this list, nothing by default, at once."""
    found = []

    def train(runner):
        for kind in ('bbox', 'segm'):
            Path(runner.work_dir, f'predictions.{kind}.json').write_text(json.dumps(found))

    monkeypatch.setattr(ResumableRunner, 'train', train)
    return found
