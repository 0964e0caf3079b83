"""A log's lines fit a screen and are about the run; its file of values has all."""

import re

import pytest
from helpers import small_run
from mmengine.runner import LogProcessor

from mmsnclr.engine import build_runner
from mmsnclr.engine.log_processor import EssentialLogProcessor
from mmsnclr.engine.run import read_log


def test_the_log_has_what_matters_and_the_file_of_values_all(digits, tmp_path):
    config = small_run(digits, tmp_path, **{'log_level': 'INFO', 'train_cfg.max_epochs': 1})
    assert config.log_processor.type == 'EssentialLogProcessor'
    config.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.5)
    build_runner(config).train()
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    # Of the momentum encoder, and of what mmengine's own hooks use.
    assert not re.search('is skipped since|FileClient|HardDiskBackend', text)
    assert 'WARNING - No CUDA device: 3 SyncBN' in text
    lines = re.findall(r'Epoch\(train\) .*', text)
    named = 'lr', 'eta', 'time', 'loss', 'feature_std', 'view_recall'
    assert len(lines) == 6 and tuple(re.findall(r'(\w+): ', lines[-1])) == named
    assert len(lines[-1]) < 140
    values = read_log(tmp_path)[-1]
    assert {*named} - {'eta'} < values.keys() and len(values) > 15
    (loss,) = re.findall(r' loss: (\S+)', lines[-1])
    assert float(loss) == pytest.approx(values['loss'], abs=1e-4)


WHOLE = 'base_lr: 3e-2 lr: 3e-2  eta: 1 day, 0:00:10  data_time: 0.1  loss: 1.2  loss_a: 1.0'


@pytest.mark.parametrize(
    ('mode', 'values'), [('train', 'lr: 3e-2  eta: 1 day, 0:00:10  loss: 1.2'), ('val', WHOLE)]
)
def test_values_are_left_out_of_lines_of_the_training(monkeypatch, mode, values):
    head = f'Epoch({mode})  [1][ 6/60]  '
    monkeypatch.setattr(LogProcessor, 'get_log_after_iter', lambda *_: ({}, head + WHOLE))
    said = EssentialLogProcessor().get_log_after_iter(None, 0, mode)
    assert said == ({}, head + values)
