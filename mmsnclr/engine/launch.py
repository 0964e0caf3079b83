"""A function run by several processes of this machine, one for each GPU."""

import builtins
import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ..checkpoints import write_text
from ..parents import launcher_that_waits
from .hooks.preemption import PREEMPTED

# Errors that users see without a traceback, as one of the command line's own process.
_TOLD = (FileNotFoundError, ImportError, OSError, ValueError)
# What a process says whose peer has died.
_OF_A_PEER = re.compile(r'gloo|nccl|Connection (closed|reset|refused)|Broken pipe', re.IGNORECASE)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_BY_ELASTIC = (signal.SIGHUP, signal.SIGQUIT)


def count_processes(gpus: int | None = None) -> int:
    """How many processes are to train.

    Args:
        gpus: Their number, if the user has chosen; else one for each visible
            GPU, or one without CUDA.

    Raises:
        ValueError: If there are not so many GPUs.
    """
    present = torch.cuda.device_count()
    if gpus is None:
        return max(1, present)
    if gpus < 1 or (present and gpus > present):
        has = f'at most {present}, which are visible here' if present else '1 or more'
        raise ValueError(f'gpus={gpus} must be {has}')
    return gpus


def count_cores(processes: int = 1) -> int:
    """Cores of this machine for each of some processes."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def share_of_batch(batch: int, processes: int) -> int:
    """Images of a batch for each of some processes.

    Raises:
        ValueError: If they do not get the same number.
    """
    if batch % processes:
        raise ValueError(
            f'batch={batch} images do not divide among {processes} processes: choose a number of '
            'processes (--gpus) that divides it, or for a new run another batch'
        )
    return batch // processes


def set_processes(cfg: Config, processes: int) -> None:
    """Set how many processes train by a config: they share its batch and the statistics of BN.

    Interrupted, they leave a checkpoint, unless the config has another setting for that. It is
    set at each start: the first versions wrote down less.

    Args:
        cfg: Of the run; it is changed.
        processes: What is passed to :func:`launch`.

    Raises:
        ValueError: If the batch does not divide among them.
    """
    share_of_batch(cfg.train_dataloader.batch_size, processes)
    cfg.launcher = 'pytorch' if processes > 1 else 'none'
    # On GPUs, also of timm's models, whose layers have no norm_cfg.
    cfg.share_batch, cfg.sync_bn = True, 'torch'
    cfg.default_hooks.setdefault('preemption', dict(type='PreemptionHook', interrupt=True))


@contextlib.contextmanager
def threads_of_a_process(processes: int) -> Iterator[None]:
    """Compute inside by as many threads as each of some processes has.

    ``OMP_NUM_THREADS`` decides, or else the cores are shared.
    """
    before = torch.get_num_threads()
    if processes > 1 and 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(count_cores(processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def launch(processes: int, function: Callable[..., None], *args: Any) -> None:
    """Run a function in one or several processes of this machine, and wait for them.

    One is this process; several are started by torch's elastic launcher, and joined
    by gloo or NCCL where the function builds a runner with ``launcher='pytorch'``.
    SIGINT, SIGTERM and SIGUSR1 reach all of them.

    Args:
        processes: Their number.
        function: A function of a module, with arguments that can be pickled.
        *args: Its arguments.

    Raises:
        ChildProcessError: If a process died without an error of its own.
        KeyboardInterrupt: If Ctrl-C ended them before there was anything to save.
        OSError, ImportError, ValueError: Of the first process that raised one.
        RuntimeError: With the traceback of the first that raised another.
        SystemExit: With the exit code of ``PreemptionHook`` if that ended them, or
            of a signal that came before.
    """
    if processes == 1:
        function(*args)
        return
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what was measured here is of no use to the others
    with tempfile.TemporaryDirectory(prefix='mmsnclr_') as folder, _forwarding() as received:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid4().hex,
            rdzv_backend='c10d',
            rdzv_endpoint='localhost:0',  # any free port
            local_addr='127.0.0.1',
            max_restarts=0,
            monitor_interval=0.1,  # seconds; older torch looks each half minute
            **_logs(folder),
        )
        try:
            elastic_launch(config, _run_rank)(folder, processes, function, args)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            raise _cause(rank, failure, received, Path(folder), processes) from None


def _logs(folder: str) -> dict:
    """Where torch's launcher writes, which would otherwise leave a folder behind."""
    try:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    except ImportError:  # torch < 2.3
        return dict(log_dir=folder)
    return dict(logs_specs=DefaultLogsSpecs(folder))


@contextlib.contextmanager
def _forwarding() -> Iterator[list[int]]:
    """Send signals on to the processes; those that came."""
    received = []

    def receive(number: int, frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        received.append(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                if child.pid is not None:
                    os.kill(child.pid, number)
        if not children:
            raise _ended_by(number)

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in (*_SIGNALS, *_BY_ELASTIC):
                stack.callback(signal.signal, number, signal.getsignal(number))
            for number in _SIGNALS:
                signal.signal(number, receive)
        stack.enter_context(launcher_that_waits(receive))
        yield received


def _ended_by(number: int) -> BaseException:
    """What a process raises that a signal ends."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _run_rank(folder: str, processes: int, function: Callable[..., None], args: tuple) -> None:
    """Run the function as one of several processes, and write down what it raises."""
    # A terminal sends Ctrl-C to its whole group; it is to come once, from the launcher.
    os.setpgrp()
    multiprocessing.set_start_method(None, force=True)  # mmengine warns of what is set already
    if not torch.cuda.is_available():
        _hide_prints_of_gloo()
    if os.environ['RANK'] != '0':
        warnings.simplefilter('ignore')
    try:
        with threads_of_a_process(processes):
            function(*args)
        outcome = None
    except KeyboardInterrupt:  # torch takes it for success
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        kind = next((kind for kind in _TOLD if isinstance(error, kind)), None)
        told = (kind.__name__, str(error)) if kind else ('RuntimeError', traceback.format_exc())
        outcome = [*told, time.time()]
    # Whole or not at all: torch may end it meanwhile, for another process has died.
    write_text(os.path.join(folder, f'{os.environ["RANK"]}.json'), json.dumps(outcome))
    if outcome is not None:
        raise SystemExit(1)
    if dist.is_initialized():
        dist.destroy_process_group()


def _hide_prints_of_gloo() -> None:
    """Keep standard output for what Python prints; gloo tells of its connections there."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), 'w', buffering=1)
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 1)


def _cause(
    rank: int, failure: ProcessFailure, received: list[int], folder: Path, processes: int
) -> BaseException:
    """Why the processes ended, the first of which that torch saw fail is given."""
    if failure.exitcode == PREEMPTED:
        return SystemExit(PREEMPTED)
    outcomes = {int(path.stem): json.loads(path.read_text()) for path in folder.glob('*.json')}
    told = {number: outcome for number, outcome in outcomes.items() if outcome}
    # One that has died lets the others fail, which may be seen first.
    own = {n: outcome for n, outcome in told.items() if not _OF_A_PEER.search(outcome[1])}
    if not own and received:
        return _ended_by(received[-1])
    silent = [number for number in range(processes) if number not in outcomes]
    if not own and silent:
        said = [f'; rank {n} said: {told[n][1].strip().splitlines()[-1]}' for n in sorted(told)[:1]]
        death = _death(rank, failure) if rank in silent else _death(silent[0])
        return ChildProcessError(f'{death}{"".join(said)}')
    own = own or told
    first = min(own, key=lambda n: own[n][-1])
    kind, text, _ = own[first]
    return getattr(builtins, kind)(f'of rank {first}:\n{text}' if kind == 'RuntimeError' else text)


def _death(rank: int, failure: ProcessFailure | None = None) -> ChildProcessError:
    """The error of a process that left none."""
    how = 'died'
    if failure is not None:
        code = failure.exitcode
        how = f'by {signal.Signals(-code).name}' if code < 0 else f'with exit code {code}'
        how = f'(process {failure.pid}) was ended {how}'
    return ChildProcessError(
        f'rank {rank} {how} and gave no reason, as for want of memory; --resume continues from the '
        'last checkpoint'
    )
