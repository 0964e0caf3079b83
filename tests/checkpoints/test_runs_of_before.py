"""What an earlier version wrote is read, and its training goes on as it would have there."""

import json
import shutil
from pathlib import Path

import cv2
import pytest
import safetensors.torch
import timm
import torch
from helpers import ROOT

from mmsnclr.api import export
from mmsnclr.engine import build_runner
from mmsnclr.engine.run import load_run, read_log

FOLDER = ROOT / 'tests/data/runs_of_before'
RECORDED = json.loads((FOLDER / 'losses.json').read_text())
CHECKPOINTS = [FOLDER / name / 'epoch_2.pth' for name in ('snclr', 'sce')]


def machine():
    """What decides pixels to the bit, and the order in which kernels sum up."""
    cpu = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    names = {line.partition(': ')[2] for line in cpu.splitlines() if line.startswith('model name')}
    return [
        cv2.__version__,
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        *sorted(names),
    ]


@pytest.fixture
def one_thread():
    """As the losses were recorded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('name', ['snclr', 'sce'])
def test_a_run_of_before_goes_on_with_the_losses_of_before(digits, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # the paths of its images, which name them, are relative
    (tmp_path / 'digits').symlink_to(digits)
    shutil.copytree(FOLDER / name, tmp_path / 'run')
    cfg, _ = load_run('run/epoch_2.pth')
    cfg.work_dir, cfg.resume = 'run', True
    build_runner(cfg).train()
    losses = [line['loss'] for line in read_log('run')]
    # Bits are compared where they were recorded. Elsewhere sums may be rounded otherwise, and
    # another OpenCV draws the digits with other edges.
    same = machine() == RECORDED['machine']
    assert losses == (RECORDED[name] if same else pytest.approx(RECORDED[name], rel=1e-2))


def test_a_vit_of_before_whose_patches_would_freeze_names_the_option(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'digits').symlink_to(digits)
    shutil.copytree(FOLDER / 'sce', tmp_path / 'run')
    cfg, _ = load_run('run/epoch_2.pth')
    cfg.work_dir, cfg.resume, cfg.model.frozen_patch_embed = 'run', True, True
    with pytest.raises(ValueError, match=r'model\.frozen_patch_embed=False'):
        build_runner(cfg).train()


@pytest.mark.parametrize('path', CHECKPOINTS, ids=lambda path: path.parent.name)
def test_a_model_of_before_is_loaded_with_all_its_weights(path):
    stored = torch.load(path, weights_only=False)['state_dict']
    cfg, model = load_run(path)
    assert (cfg.model.queue.length, cfg.model.neck.out_channels) == (32, 8)
    state = model.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(value.cpu(), stored[key]) for key, value in state.items())
    assert model.queue.fill == (32 if model.queue.sync else 0)


@torch.no_grad()
def test_a_vit_of_before_is_exported_to_timm(tmp_path):
    line = export(FOLDER / 'sce/epoch_2.pth', tmp_path / 'out.pth', 'timm')
    names = dict(timm=timm, torch=torch)
    exec(line.partition('load it with ')[2], names)
    images = torch.randn(2, 3, 16, 16)
    features = names['model'].eval().forward_features(images)[:, 0]
    _, model = load_run(FOLDER / 'sce/epoch_2.pth')
    torch.testing.assert_close(features, model.cpu().backbone(images)[-1])


def test_a_resnet_of_before_is_exported_with_its_preprocessing(tmp_path):
    path = FOLDER / 'snclr/epoch_2.pth'
    export(path, tmp_path / 'out.safetensors', 'safetensors')
    with safetensors.safe_open(tmp_path / 'out.safetensors', 'pt') as file:
        meta = file.metadata()
    weights = safetensors.torch.load_file(tmp_path / 'out.safetensors')
    assert (json.loads(meta['mean']), json.loads(meta['std'])) == ([80.0] * 3, [40.0] * 3)
    stored = torch.load(path, weights_only=False)['state_dict']
    online = {key for key in stored if key.startswith('backbone.')}
    assert {f'backbone.{key}' for key in weights} == online
    assert all(torch.equal(value, stored[f'backbone.{key}']) for key, value in weights.items())
