"""The detector's config is what an earlier version wrote, so that its runs go on."""

import re
from pathlib import Path

import pytest
import torch
from helpers import ROOT, small_model
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from mmsnclr.api.detect import detect
from mmsnclr.datasets.digits import write_digits
from mmsnclr.engine.runner import ResumableRunner

FOLDER = ROOT / 'tests/data/detection_of_before'
FILES = {'config.py': 'config.txt', 'random/config.py': 'random_config.txt'}
PARTS = (
    *('default_scope', 'model', 'randomness', 'resume', 'work_dir'),
    *(f'{part}_dataloader' for part in ('train', 'val', 'test')),
    *('val_evaluator', 'test_evaluator'),
    *('optim_wrapper', 'param_scheduler', 'auto_scale_lr'),
    *('train_cfg', 'val_cfg', 'test_cfg'),
    *('default_hooks', 'custom_hooks', 'log_processor'),
)


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    """The scenes and a backbone of the recorded detection."""
    pytest.importorskip('mmdet')
    folder = tmp_path_factory.mktemp('given')
    write_digits(folder, unlabelled=160, labelled=(60, 30), scenes=(24, 8))
    model = small_model()
    meta = dict(cfg=Config(dict(model=model)).pretty_text)
    with DefaultScope.overwrite_default_scope('mmpretrain'):  # another test's may be mmdet's
        weights = MODELS.build(model).state_dict()
    torch.save(dict(state_dict=weights, meta=meta), folder / 'backbone.pth')
    return folder.resolve()


@pytest.fixture
def detect_again(given, tmp_path, monkeypatch):
    """Gives the recorded detection's arguments to `detect`, whose detectors find nothing."""

    def train(runner):
        for kind in ('bbox', 'segm'):
            Path(runner.work_dir, f'predictions.{kind}.json').write_text('[]')

    monkeypatch.setattr(ResumableRunner, 'train', train)
    scenes = given / 'scenes'
    sets = dict(val_json=scenes / 'val.json', val_images=scenes / 'val')
    settings = dict(iterations=20, workers=0, compare='random')

    def run(**options):
        arguments = (scenes / 'train.json', scenes / 'train', given / 'backbone.pth', tmp_path)
        return detect(*arguments, **sets, **settings, **options)

    return run


def text_of_before(name, given, out):
    """A recorded file with the paths of this test, its lines broken to suit them."""
    text = (FOLDER / FILES[name]).read_text()
    for word, path in dict(
        OUT=out.resolve(), SCENES=given / 'scenes', BACKBONE=given / 'backbone.pth'
    ).items():
        text = text.replace(word, str(path))
    head, base, body = re.split('(?m)(^_base_.*\n\n)', text)
    return head + base + Config.fromstring(body, '.py').pretty_text


def test_the_config_of_a_detection_is_that_of_before(detect_again, given, tmp_path):
    detect_again()
    for name in FILES:
        recorded = tmp_path / 'recorded.py'
        recorded.write_text(text_of_before(name, given, tmp_path))
        before, now = Config.fromfile(recorded), Config.fromfile(tmp_path / name)
        assert set(PARTS) - {'custom_hooks'} <= before.keys()
        # The differences that resuming passes over.
        for part in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            load = before[part].dataset.pipeline[0]
            assert load == dict(type='LoadImageFromFile')
            load.type = 'LoadAnyImage'
        assert before.optim_wrapper.optimizer.type == 'SGD'
        assert now.pop('optim_wrapper').optimizer.type == 'AdamW'
        before.pop('optim_wrapper')
        for part in PARTS:
            assert now.get(part) == before.get(part), (name, part)


def test_a_detection_of_before_is_resumed_by_its_own_configs(detect_again, given, tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text_of_before(name, given, tmp_path))
    detect_again(resume=True)
    for name in FILES:
        assert (tmp_path / name).read_text() == text_of_before(name, given, tmp_path)
