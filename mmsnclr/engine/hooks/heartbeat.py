"""A rank that has died or frozen is named, and the others stop."""

import os
import socket
import threading
import time
from datetime import timedelta

import torch.distributed as dist
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class HeartbeatHook(Hook):
    """Stops all ranks when one gives no sign of life, instead of waiting for it.

    A thread of each rank counts beats in a store that rank 0 serves, and reads
    the others'. It runs beside the training, so slow steps, checkpoints and
    validation are no reason to stop; a process that was killed, frozen or lost
    with its machine is.

    Args:
        timeout: Seconds without a beat after which a rank counts as dead.
    """

    def __init__(self, timeout: float = 600.0) -> None:
        if timeout <= 0:
            raise ValueError(f'HeartbeatHook.timeout={timeout} must be positive seconds')
        self.timeout = timeout
        self._over = threading.Event()
        self._store = None

    def before_train(self, runner: Runner) -> None:
        """Start beating."""
        if get_world_size() == 1:
            return
        host, port = os.environ.get('MASTER_ADDR', 'localhost'), [None]
        if get_rank() == 0:
            self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
            port = [self._store.port]
        broadcast_object_list(port)
        if get_rank() != 0:
            self._store = dist.TCPStore(host, port[0], wait_for_workers=False)
        threading.Thread(target=self._watch, args=(runner,), daemon=True).start()

    def leave_train(self, runner: Runner) -> None:
        """Stop beating, however training ended."""
        self._over.set()

    def after_run(self, runner: Runner) -> None:
        """Have rank 0 serve until all ranks have stopped."""
        if self._store is None:
            return
        self._store.set(f'over/{get_rank()}', '')
        if get_rank() == 0:
            ranks = [f'over/{rank}' for rank in range(get_world_size())]
            self._store.wait(ranks, timedelta(seconds=self.timeout))

    def _watch(self, runner: Runner) -> None:
        store, count = self._store.clone(), 0
        heard = dict.fromkeys(range(get_world_size()), ('', time.monotonic()))
        while not self._over.wait(self.timeout / 10):
            count += 1
            name = f'{socket.gethostname()}, process {os.getpid()}'
            try:
                store.set(f'beat/{get_rank()}', f'{count}, step {runner.iter}, {name}')
                for rank, (last, _) in heard.items():
                    key = f'beat/{rank}'
                    beat = store.get(key).decode() if store.check([key]) else ''
                    if beat != last:
                        heard[rank] = beat, time.monotonic()
            except RuntimeError:
                # Rank 0, which serves the store, does not answer.
                if self._over.is_set():
                    return
            for rank, (last, when) in heard.items():
                if time.monotonic() - when > self.timeout and not self._over.is_set():
                    where = last.partition(', ')[2] or 'before its first beat'
                    runner.logger.error(
                        f'Rank {rank} ({where}) gave no sign of life for {self.timeout:g} s '
                        '(HeartbeatHook.timeout): stopping. Go on with --resume.'
                    )
                    os._exit(1)  # the main thread waits for that rank
