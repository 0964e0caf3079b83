"""From where a training starts that may have been begun."""

import json

import torch
from helpers import run_tool, small_run

from mmsnclr.checkpoints import Stored


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
