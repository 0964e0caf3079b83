"""A scheduler's notice: save a checkpoint, leave, be started again."""

import os
import signal
import threading
from contextlib import suppress
from mmap import mmap
from types import FrameType
from typing import Any

from mmengine.dist import barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.distributed import Store

from ...parents import worker_handlers
from ..store import LONGEST_CALL, connect, patience
from .checkpoint import AtomicCheckpointHook

# sysexits.h: a temporary failure, try again. tools/slurm_train.sh requeues on it.
PREEMPTED = os.EX_TEMPFAIL
_SIGNALS = {signal.SIGTERM, signal.SIGUSR1}
_SIGNALLED = 1 << 32  # what a rank that got one adds to the votes
_POLL = 0.05  # seconds
_mask = threading.local()


def _hold() -> None:
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _forked() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(getattr(handler, '__self__', None), PreemptionHook):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release()


# SIGTERM is to end what is forked, all but workers of loaders: the pools of mmdet's measures end
# their processes by it, and a handler of Python's does not run in one that waits for a semaphore.
os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forked)


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves a checkpoint on SIGTERM or SIGUSR1 and leaves with exit code 75.

    One rank that got the signal is enough. Ranks agree through a store, on the
    host and in the background, so that no device waits for it; all of them
    leave after the same optimiser step. Where they cannot, or no
    :class:`AtomicCheckpointHook` is there, signals do what they do without this hook.

    Args:
        interval: How many iterations lie between two agreements of several
            ranks. After the signal up to twice as many are trained.
        interrupt: Whether to do the same on SIGINT, which is Ctrl-C; a second
            one interrupts at once.
    """

    priority = 'LOWEST'  # after the iteration's own checkpoint

    def __init__(self, interval: int = 10, interrupt: bool = False) -> None:
        if interval < 1:
            raise ValueError(f'PreemptionHook.interval={interval} must be at least 1')
        self.interval = interval
        self.signals = _SIGNALS | ({signal.SIGINT} if interrupt else set())
        self._received: int | None = None
        self._leave = False
        self._store: Store | None = None
        self._vote: threading.Thread | None = None
        self._signalled: bool | None = None
        self._over = threading.Event()
        self._handlers: dict[int, Any] = {}
        self._ending: mmap | None = None

    def before_train(self, runner: Runner) -> None:
        """Wait for signals from now on, if there is something to save checkpoints."""
        if not any(isinstance(hook, AtomicCheckpointHook) for hook in runner.hooks):
            self._train_on(runner, 'there is no AtomicCheckpointHook (default_hooks.checkpoint)')
            return
        if get_world_size() > 1:
            self._patience = patience(runner.cfg)
            try:
                (self._store,) = connect(1)
            except ConnectionError as error:
                self._train_on(runner, error)
                return
        if threading.current_thread() is not threading.main_thread():
            return
        self._main = os.getpid()
        # Workers of the loader have the handler, too. They are to outlive a signal
        # that the scheduler sends to all, but not the end of the main process.
        self._ending = mmap(-1, 1)
        self._handlers = {number: signal.signal(number, self._receive) for number in self.signals}
        worker_handlers[signal.SIGTERM] = self._receive

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._main:
            self._received = number
            if number == signal.SIGINT:
                signal.signal(number, signal.default_int_handler)
        elif self._ending is not None and self._ending[0]:
            os._exit(0)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Leave if a signal came and the optimiser has stepped."""
        self._leave = self._leave or self._agreed(runner)
        wrapper = runner.optim_wrapper
        stepped = isinstance(wrapper, OptimWrapperDict) or wrapper.should_update()
        if not (self._leave and stepped):
            return
        for hook in runner.hooks:
            if isinstance(hook, AtomicCheckpointHook):
                hook.save_interrupted(runner)
        name = 'A signal' if self._received is None else signal.Signals(self._received).name
        runner.logger.warning(
            f'{name} came: stopped after iteration {runner.iter + 1}; --resume continues. '
            f'Exit code {PREEMPTED}'
        )
        # Slurm ends the ranks that are last by another signal; their exit code is to be the same.
        for number in self._handlers.keys() & _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
            del self._handlers[number]
        barrier()  # rank 0 may serve the store, in which others still read
        raise SystemExit(PREEMPTED)

    def _agreed(self, runner: Runner) -> bool:
        """Whether any rank got a signal, the same answer on every rank."""
        if get_world_size() == 1:
            return self._received is not None
        if self._store is None or (runner.iter + 1) % self.interval:
            return False
        if self._vote is not None:
            self._vote.join(self._patience)
            if self._signalled:
                return True
            if self._signalled is None:
                self._train_on(runner, 'the store does not answer')
                return False
        self._signalled = None
        arguments = (self._store, runner.iter)
        self._vote = threading.Thread(target=self._agree, args=arguments, daemon=True)
        self._vote.start()
        return False

    def _agree(self, store: Store, iteration: int) -> None:
        """Vote, and wait until all have, in a thread."""
        vote = 1 if self._received is None else 1 + _SIGNALLED
        with suppress(RuntimeError):  # `_agreed` says it
            votes = store.add(str(iteration), vote)
            while votes % _SIGNALLED < get_world_size():
                if self._over.wait(_POLL):
                    return
                votes = store.add(str(iteration), 0)
            self._signalled = votes >= _SIGNALLED
            # Who votes has read the votes before.
            store.delete_key(str(iteration - self.interval))

    def _train_on(self, runner: Runner, reason: object) -> None:
        """Leave signals alone from now on: one rank must not leave without the others."""
        runner.logger.warning(
            f'No signal will save a checkpoint any more (PreemptionHook): {reason}'
        )
        self._store = None
        self.leave_train(runner)

    def leave_train(self, runner: Runner) -> None:
        """Leave signals to whoever had them before, however training ended."""
        self._over.set()
        if self._vote is not None:
            self._vote.join(LONGEST_CALL)  # Python aborts if it ends while a thread is in the store
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        worker_handlers.clear()
        if self._ending is not None:
            self._ending[0] = 1
