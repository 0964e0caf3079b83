"""From where a training starts that may have been begun."""

import json
import runpy
from types import SimpleNamespace

import torch
from helpers import ROOT, run_tool, small_run
from mmengine.config import Config

from mmsnclr.checkpoints import Stored, newest_checkpoint
from mmsnclr.engine import build_runner


def test_resume_starts_a_new_run_from_the_weights_of_its_config(digits, trained, tmp_path):
    weights, out = trained / 'epoch_2.pth', tmp_path / 'run'
    standing = {'optim_wrapper.optimizer.lr': 0.0, 'train_cfg.max_epochs': 1}
    small_run(digits, out, load_from=str(weights), **standing).dump(tmp_path / 'config.py')

    def train(*options):
        result = run_tool('tools/train.py', str(tmp_path / 'config.py'), '--resume', *options)
        assert result.returncode == 0, result.stderr

    train()
    before, after = (Stored.read(path).weights for path in (weights, out / 'epoch_1.pth'))
    for name in ('backbone.conv1.weight', 'neck.fc0.weight'):
        assert torch.equal(after[name], before[name])
    train('--cfg-options', 'train_cfg.max_epochs=2')
    *_, last = sorted(out.glob('*/vis_data/scalars.json'))
    assert json.loads(last.read_text().splitlines()[0])['step'] == 7


def test_what_is_of_no_training_keeps_no_run_from_its_beginning(digits, tmp_path):
    weights = {'conv1.weight': torch.ones(8)}
    foreign = {
        'weights': weights,
        'published': dict(state_dict=weights, meta=dict(epoch=9, iter=9)),
        'of_dino': dict(student=weights, optimizer=dict(state={}), epoch=9),
        'tensors': list(weights.values()),
    }
    for name, content in foreign.items():
        torch.save(content, tmp_path / f'{name}.pth')
    torch.save(weights, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    build_runner(small_run(digits, tmp_path, resume=True, log_level='INFO')).train()
    (log,) = tmp_path.glob('*/*.log')
    for name in (*foreign, 'old'):
        assert f'{tmp_path / name}.pth is passed over' in log.read_text()
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'epoch_3.pth')


def test_weights_in_the_folder_do_not_hide_checkpoints_elsewhere(digits, tmp_path):
    run, elsewhere = tmp_path / 'run', tmp_path / 'elsewhere'
    options = {'default_hooks.checkpoint.out_dir': str(elsewhere), 'train_cfg.max_epochs': 1}
    build_runner(small_run(digits, run, **options)).train()
    torch.save({'conv1.weight': torch.ones(8)}, run / 'weights.pth')
    assert newest_checkpoint(run)[0] == str(elsewhere / 'run/epoch_1.pth')


def test_what_a_config_was_to_resume_is_not_taken_for_weights(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    set_training = runpy.run_path(str(ROOT / 'tools/train.py'))['set_training']
    flags = SimpleNamespace(
        resume='auto', allow_partial_pretrained=False, amp=None, auto_scale_lr=False
    )
    begun = Config(dict(resume=True, load_from='other/epoch_50.pth', start_from='coco.pth'))
    set_training(begun, flags)
    assert (begun.start_from, begun.load_from) == ('coco.pth', None)
