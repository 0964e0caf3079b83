"""A run keeps as many logged values as its log looks at."""

import json

import numpy as np
import pytest
from helpers import run_with
from mmengine.logging import MessageHub

from mmsnclr.parents import bound_history

ALL = dict(data_src='loss', log_name='all', method_name='mean', window_size='global')
EPOCH = dict(data_src='loss', log_name='epoch', method_name='mean', window_size='epoch')


def train(digits, folder, **log_processor):
    options = {f'log_processor.{key}': value for key, value in log_processor.items()}
    runner = run_with(digits, folder, [], **options)
    runner.train()
    (path,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return len(runner.message_hub.get_scalar('train/loss').data[0]), lines


def test_logged_values_are_those_of_an_unbounded_history(digits, tmp_path):
    kept, lines = train(digits, tmp_path / 'bounded', window_size=4, custom_cfg=[EPOCH])
    kept_all, expected = train(
        digits, tmp_path / 'unbounded', window_size=4, custom_cfg=[EPOCH, ALL]
    )
    assert (kept, kept_all) == (6, 18)
    for line, other in zip(lines, expected, strict=True):
        for name in ('loss', 'epoch', 'lr', 'step'):
            assert line.get(name) == other.get(name)


@pytest.mark.parametrize('length', [1, 10])
def test_the_long_history_of_an_older_checkpoint_is_cut(length):
    old, new = (MessageHub.get_instance(f'{name} {length}') for name in ('old', 'new'))
    for step in range(100):
        old.update_scalar('train/loss', step)
        old.update_scalar('val/time', step)
    bound_history(new, length)
    new.load_state_dict(old.state_dict())
    for step in range(100, 102):
        new.update_scalars({'train/loss': step, 'val/time': step})
    values, counts = new.get_scalar('train/loss').data
    assert np.array_equal(values, range(102 - length, 102)) and len(counts) == length
    assert len(new.get_scalar('val/time').data[0]) == 102
