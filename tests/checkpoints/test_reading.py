"""A checkpoint of somebody else runs nothing on this machine."""

import threading
from contextlib import suppress
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from helpers import ROOT, run_tool, small_model, small_run
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from mmpretrain.registry import MODELS

from mmsnclr.backbones import check_pretrained
from mmsnclr.backbones.exporting import export_backbone
from mmsnclr.checkpoints import load_checkpoint
from mmsnclr.engine import build_runner

REFUSED = (
    r'holds a pathlib\.Path\.touch|holds a \S+, which could run code.*TORCH_FORCE_NO_WEIGHTS_ONLY'
)


class Malice:
    """An object whose loading makes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def proof(tmp_path):
    """The file that only a malicious checkpoint makes."""
    return tmp_path / 'it_ran'


@pytest.fixture
def malicious(tmp_path, proof):
    model = MODELS.build(small_model())
    path = tmp_path / 'malicious' / 'epoch_1.pth'
    path.parent.mkdir()
    content = dict(meta=dict(cfg='', epoch=1, iter=6), message_hub={}, optimizer=Malice(proof))
    torch.save(content | dict(state_dict=model.state_dict()), path)
    return path


def classifier(path):
    config = Config.fromfile(ROOT / 'configs/demo/linear_digits.py').model
    config.backbone.init_cfg.checkpoint = str(path)
    return MODELS.build(config)


def resume(path, digits, work_dir):
    build_runner(small_run(digits, work_dir, resume=True, load_from=path and str(path))).train()


@pytest.mark.parametrize(
    'load',
    [
        lambda path, *_: load_checkpoint(str(path)),
        lambda path, *_: CheckpointLoader.load_checkpoint(str(path), map_location='cpu'),
        lambda path, *_: check_pretrained(classifier(path)),
        lambda path, *_: classifier(path).init_weights(),
        lambda path, *_: export_backbone(path, path.with_name('out.pth'), to='timm'),
        resume,
        lambda path, digits, _: resume(None, digits, path.parent),
    ],
    ids=['load', 'mmengine', 'check', 'init_cfg', 'export', 'resume', 'resume_newest'],
)
def test_a_malicious_checkpoint_is_refused_and_the_option_named(
    digits, tmp_path, malicious, proof, load
):
    with pytest.raises(ValueError, match=REFUSED):
        load(malicious, digits, tmp_path / 'run')
    assert not proof.exists()


@pytest.mark.slow
def test_the_tools_refuse_it_too(digits, malicious, proof):
    command = ['tools/test.py', 'configs/demo/linear_digits.py', str(malicious)]
    data = f'test_dataloader.dataset.data_root={digits / "labelled"}'
    command += ['--work-dir', str(malicious.parent), '--cfg-options', data]
    result = run_tool(*command)
    assert result.returncode != 0 and 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1' in result.stderr
    assert not proof.exists()


def test_the_option_lets_a_trusted_file_run_code(malicious, proof, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    load_checkpoint(str(malicious))
    assert proof.exists()


def test_a_malicious_download_is_refused(malicious, proof, tmp_path, monkeypatch):
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'cache'))
    handler = partial(SimpleHTTPRequestHandler, directory=malicious.parent)
    with HTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/epoch_1.pth'
        with pytest.raises(ValueError, match=REFUSED):
            CheckpointLoader.load_checkpoint(url)
        server.shutdown()
    assert not proof.exists()


@pytest.mark.parametrize('builtin', ['eval', 'getattr'])
def test_no_builtin_is_let_through_with_mmengines_logs(tmp_path, builtin):
    class Call:
        def __reduce__(self):
            return getattr(__builtins__, builtin, None) or __builtins__[builtin], ('a', 'upper')

    torch.save(dict(x=Call()), tmp_path / 'call.pth')
    with pytest.raises(ValueError, match=rf'holds a (builtins\.)?{builtin}'):
        load_checkpoint(str(tmp_path / 'call.pth'))


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """A checkpoint that training wrote."""
    folder = tmp_path_factory.mktemp('trained')
    build_runner(small_run(digits, folder, **{'train_cfg.max_epochs': 1})).train()
    return folder / 'epoch_1.pth'


@pytest.mark.parametrize('key', ['cfg', 'config'])
def test_a_config_in_a_checkpoint_is_never_run(digits, trained, tmp_path, proof, key):
    checkpoint = load_checkpoint(str(trained))
    checkpoint['meta'][key] = f'from pathlib import Path\nPath({str(proof)!r}).touch()\n'
    path = tmp_path / 'epoch_1.pth'
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r'plain values|would run'):
        resume(path, digits, tmp_path / 'run')
    if key == 'cfg':
        with pytest.raises(ValueError, match='plain values'):
            export_backbone(path, tmp_path / 'out.pth', to='timm')
    assert not proof.exists()


def test_what_is_damaged_is_said_in_a_sentence_whatever_torch_makes_of_it(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(bytes(1000))
    with pytest.raises(ValueError, match='is damaged or was not written to its end'):
        load_checkpoint(str(path), mmap=True)
    torch.save({'weight': torch.ones(8)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with suppress(ValueError):
            load_checkpoint(str(path), mmap=True)
