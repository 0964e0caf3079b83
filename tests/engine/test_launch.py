"""A function in several processes of this machine, and what is told of their ends."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from torch.distributed.launcher.api import elastic_launch

from mmsnclr.engine.hooks.preemption import PREEMPTED
from mmsnclr.engine.launch import (
    count_cores,
    count_processes,
    launch,
    set_processes,
    share_of_batch,
)

# The other's end may be seen first, and then tells nothing of how this one ended.
_KILLED = r'^rank 1 (\(process \d+\) was ended by SIGKILL|died) and gave no reason'


def die_writing(path, text, *args, **kwargs):
    with open(path, 'w') as file:
        file.write(text[:1])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def end(how):
    """Join the others; the second process ends, the first waits for it."""
    dist.init_process_group('gloo')
    if os.environ['RANK'] == '1':
        if how == 'told':
            raise FileNotFoundError('photos/ is not a folder')
        if how == 'unexpected':
            raise KeyError('mean')
        if how == 'while it tells':
            Path.write_text = die_writing
            raise FileNotFoundError
        os.kill(os.getpid(), getattr(signal, how))
    dist.barrier()


@pytest.mark.parametrize(
    ('how', 'kind', 'message'),
    [
        ('told', FileNotFoundError, r'^photos/ is not a folder$'),
        ('unexpected', RuntimeError, r"(?s)^of rank 1:\nTraceback .*in end\n.*KeyError: 'mean'"),
        (
            'SIGKILL',
            ChildProcessError,
            _KILLED,
        ),
        ('while it tells', ChildProcessError, _KILLED),
    ],
)
def test_the_end_of_a_process_is_told_once_as_what_it_is(how, kind, message, capfd):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(kind, match=message):
        launch(2, end, how)
    printed = capfd.readouterr()
    assert not printed.out and not printed.err
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def wait_for_a_signal(folder):
    """Note the threads, then wait as a training does, and take a second to write a checkpoint."""
    dist.init_process_group('gloo')
    received, rank = [], os.environ['RANK']
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    Path(folder, rank).write_text(str(torch.get_num_threads()))
    while not received:
        time.sleep(0.1)
    if rank == '0':
        time.sleep(1)
        Path(folder, 'checkpoint').write_text(str(received))
    raise SystemExit(PREEMPTED)


@pytest.mark.parametrize('threads', [None, pytest.param('1', marks=pytest.mark.slow)])
def test_a_signal_reaches_all_once_and_is_waited_for(threads, tmp_path, monkeypatch, capfd):
    # Processes that are forked end at once, and torch would end the other before it has written.
    monkeypatch.setattr('mmsnclr.engine.launch.elastic_launch', elastic_launch)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    if threads is None:
        monkeypatch.delenv('OMP_NUM_THREADS')

    def interrupt():
        while not all((tmp_path / rank).exists() for rank in '01'):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as left:
        launch(2, wait_for_a_signal, tmp_path)
    thread.join()
    assert left.value.code == PREEMPTED
    assert (tmp_path / 'checkpoint').read_text() == f'[{signal.SIGINT:d}]'
    expected = int(threads or count_cores(2))
    assert [int((tmp_path / rank).read_text()) for rank in '01'] == [expected] * 2
    printed = capfd.readouterr()
    assert not printed.out and not printed.err


def test_what_a_machine_does_not_have_is_refused(monkeypatch):
    assert (count_processes(), count_processes(3)) == (1, 3)  # without CUDA
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert (count_processes(), count_processes(3)) == (4, 3)
    with pytest.raises(ValueError, match='gpus=8 must be at most 4, which are visible here'):
        count_processes(8)
    with pytest.raises(ValueError, match='gpus=0 must be'):
        count_processes(0)
    assert share_of_batch(24, 3) == 8
    with pytest.raises(ValueError, match=r'batch=32 images do not divide among 3 processes'):
        share_of_batch(32, 3)


@pytest.mark.parametrize('chosen', [None, dict(type='PreemptionHook', interval=1)])
def test_what_a_config_says_of_interruptions_stays(chosen):
    cfg = Config(dict(train_dataloader=dict(batch_size=4), default_hooks=dict(preemption=chosen)))
    set_processes(cfg, 2)
    assert cfg.default_hooks.preemption == chosen
    assert (cfg.launcher, cfg.share_batch, cfg.sync_bn) == ('pytorch', True, 'torch')
