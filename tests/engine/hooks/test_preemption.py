"""What a signal does to a run, by what there is to save a checkpoint."""

import signal

import pytest
from helpers import run_ranks
from interruptions import Kill, Record, run_config, steps, train
from mmengine.config import Config

from mmsnclr.engine import build_runner
from mmsnclr.engine.hooks.preemption import PREEMPTED

IMPORTS = """from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop
"""


@pytest.mark.parametrize(
    ('imports', 'type_'), [('', "'mmengine.{}'"), (IMPORTS, '{}')], ids=['scope', 'pure Python']
)
def test_checkpoints_are_safe_by_whatever_name_hook_and_loop_are_called(
    digits, tmp_path, imports, type_
):
    options = {
        'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, _delete_=True),
        'train_cfg': dict(type='EpochBasedTrainLoop', max_epochs=3, _delete_=True),
    }
    text = run_config(digits, tmp_path, **options).pretty_text
    for name in ('CheckpointHook', 'EpochBasedTrainLoop'):
        text = text.replace(f"'{name}'", type_.format(name))
    (tmp_path / 'named.py').write_text(imports + text)

    def run(*hooks, resume=False):
        config = Config.fromfile(tmp_path / 'named.py')
        config.resume = resume
        runner = build_runner(config)
        for hook in (Record(), *hooks):
            runner.register_hook(hook)
        runner.train()

    assert run_ranks(run, 1, Kill(8, 'step_start', number=signal.SIGTERM)) == [PREEMPTED]
    assert {path.name for path in tmp_path.glob('*_*.pth')} == {'epoch_1.pth', 'iter_9.pth'}
    assert run_ranks(lambda: run(resume=True), 1) == [0]
    assert run_ranks(train, 1, digits, tmp_path / 'whole') == [0]
    assert steps(tmp_path) == steps(tmp_path / 'whole')


def test_without_checkpoints_a_signal_ends_a_run_as_it_ends_any_process(digits, tmp_path):
    kill = Kill(8, 'step_start', number=signal.SIGUSR1)
    none = {'default_hooks.checkpoint': None}
    assert run_ranks(lambda: train(digits, tmp_path, kill, **none), 1) == [-signal.SIGUSR1]
    (log,) = tmp_path.glob('*/*.log')
    assert 'No signal will save a checkpoint any more' in log.read_text()
