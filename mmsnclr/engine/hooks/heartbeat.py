"""A rank that has died or frozen is named, and the others stop."""

import contextlib
import os
import socket
import threading
from datetime import timedelta

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.distributed import Store

from ..store import LONGEST_CALL, connect, group_timeout, patience

_LOOKS = 10  # that a rank may miss
# The miss that is too many, and a look that each of the two threads may have just had.
_INTERVALS = _LOOKS + 3


@HOOKS.register_module()
class HeartbeatHook(Hook):
    """Stops all ranks when one gives no sign of life, instead of waiting for it.

    A thread of each rank counts beats in a store, which may be served by rank 0,
    and reads the others'; a second one judges by them, and names rank 0 when the
    store does not answer. They run beside the training, so slow steps, checkpoints
    and validation are no reason to stop; a process that was killed, frozen or
    lost with its machine is. A job that was suspended as a whole goes on.

    Args:
        timeout: Seconds without a beat within which a rank is named. By default
            two thirds of ``env_cfg.dist_cfg.timeout``, after which the process
            group ends the run without a name.
    """

    def __init__(self, timeout: float | None = None) -> None:
        if timeout is not None and timeout <= 0:
            raise ValueError(f'HeartbeatHook.timeout={timeout} must be positive seconds')
        self.timeout = timeout
        self._over = threading.Event()
        self._store: Store | None = None
        self._threads: list[threading.Thread] = []

    def before_train(self, runner: Runner) -> None:
        """Start beating.

        Raises:
            ValueError: If the process group would end the run first.
        """
        if get_world_size() == 1:
            return
        limit = group_timeout(runner.cfg)
        self.timeout = self.timeout or patience(runner.cfg)
        if self.timeout >= limit:
            raise ValueError(
                f'HeartbeatHook.timeout={self.timeout:g} is too late, as the process group ends '
                f'the run after {limit:g} s: lower default_hooks.heartbeat.timeout, or leave it '
                'out, or raise env_cfg.dist_cfg.timeout'
            )
        self._interval = self.timeout / _INTERVALS
        try:
            self._store, self._watched = connect(2)
        except ConnectionError as error:
            runner.logger.warning(f'No rank that freezes will be named (HeartbeatHook): {error}')
            return
        self._beats = dict.fromkeys(range(get_world_size()), '')
        self._missed = dict.fromkeys(range(get_world_size()), 0)
        for watch in (self._exchange, self._judge):
            self._threads.append(threading.Thread(target=watch, args=(runner,), daemon=True))
            self._threads[-1].start()

    def leave_train(self, runner: Runner) -> None:
        """Stop beating, however training ended."""
        self._over.set()
        for thread in self._threads:
            # Python aborts if it ends while a thread is in the store; where that is frozen, one is.
            thread.join(LONGEST_CALL)

    def after_run(self, runner: Runner) -> None:
        """Have rank 0, which may serve the store, stay until all ranks have stopped."""
        if self._store is None or self.timeout is None:
            return
        self._store.set(f'over/{get_rank()}', '')
        if get_rank() == 0:
            ranks = [f'over/{rank}' for rank in range(get_world_size())]
            self._store.wait(ranks, timedelta(seconds=self.timeout))

    def _exchange(self, runner: Runner) -> None:
        """Beat and read the others' beats; where the store is frozen this waits for ever."""
        store, count = self._watched, 0
        name = f'{socket.gethostname()}, process {os.getpid()}'
        while not self._over.is_set():
            count += 1
            with contextlib.suppress(RuntimeError):  # the store is gone: `_judge` counts that
                store.set(f'beat/{get_rank()}', f'{count}, step {runner.iter}, {name}')
                for rank, last in self._beats.items():
                    key = f'beat/{rank}'
                    beat = store.get(key).decode() if store.check([key]) else ''
                    if beat != last or store.check([f'over/{rank}']):
                        self._beats[rank], self._missed[rank] = beat, 0
                    elif rank != 0:
                        self._missed[rank] += 1
            self._over.wait(self._interval)

    def _judge(self, runner: Runner) -> None:
        """Stop this rank when another's beats stay away; never touches the store.

        Looks are counted rather than seconds: a job that is suspended and goes on has missed none.
        Other ranks' are counted when the store answers, because without it nobody is heard.
        """
        while not self._over.wait(self._interval):
            self._missed[0] += 1
            for rank, missed in self._missed.items():
                if missed > _LOOKS and not self._over.is_set():
                    where = self._beats[rank].partition(', ')[2] or 'before its first beat'
                    runner.logger.error(
                        f'Rank {rank} ({where}) gave no sign of life for {self.timeout:g} s '
                        '(HeartbeatHook.timeout): stopping. Go on with --resume.'
                    )
                    os._exit(1)  # the main thread waits for that rank
