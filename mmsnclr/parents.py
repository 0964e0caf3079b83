"""Every change that is made to a parent library, its reason, and what would make it needless.

Nothing else in the package changes how a parent's module, class or object behaves.
What a parent lets be set, registered or subclassed lies where it belongs.
"""

import codecs
import contextlib
import io
import logging
import os
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial, wraps
from importlib.metadata import PackageNotFoundError, version
from pickle import UnpicklingError
from typing import Any, TextIO

import numpy as np
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger, print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, runner
from mmengine.visualization import Visualizer
from mmpretrain.utils import dependency
from packaging.version import Version
from PIL import Image
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.distributed.elastic.multiprocessing import api as elastic
from torch.utils.data import DataLoader

UNSAFE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


def name_package() -> None:
    """Let configs name their parents as ``mmsnclr::...``.

    mmengine has a fixed list of packages that may be named (0.10.7 and its
    fork's 0.10.12); needless once packages can add themselves.
    """
    MODULE2PACKAGE.setdefault('mmsnclr', 'mmsnclr')


def leave_out_multimodal_models() -> None:
    """Have mmpretrain leave out its models of text and images where transformers 5 is installed.

    mmpretrain (1.2.0 and its fork's 1.3.6) imports them wherever it finds
    transformers, and those fail with its version 5. Nothing here needs them.
    """
    with contextlib.suppress(PackageNotFoundError):
        if Version(version('transformers')).major >= 5:
            dependency.WITH_MULTIMODAL = False


def keep_activations() -> None:
    """Have ``sync_bn = 'torch'`` convert a model's layers of BN as timm does.

    mmengine (0.10.7 and its fork's 0.10.12) makes plain SyncBN of those of timm
    that have an activation, too, which is lost without a word: networks such as
    EfficientNet become linear. Needless once it leaves the conversion to them.
    """
    theirs = runner.convert_sync_batchnorm

    @wraps(theirs)
    def convert(module: nn.Module, implementation: str = 'torch') -> nn.Module:
        known = implementation == 'torch'
        return convert_sync_batchnorm(module) if known else theirs(module, implementation)

    runner.convert_sync_batchnorm = convert


def without_prints() -> contextlib.AbstractContextManager:
    """Drop what is printed inside.

    A fork of mmpretrain (1.3.6) prints on import which of its data sets it does without.
    """
    return contextlib.redirect_stdout(io.StringIO())


def leave_out_pillows_limit() -> None:
    """Have Pillow open images of any number of pixels, without a warning.

    It (13.0) warns from 89 megapixels on, and refuses twice as many in any case.
    ``datasets.decoding`` has a limit, which users can set, for all that is opened here.
    """
    Image.MAX_IMAGE_PIXELS = None


def read_checkpoints_by(load: Callable[[str, str | None], dict]) -> None:
    """Have mmengine read checkpoints without running what they may hold.

    mmengine 0.10.7 reads files with ``weights_only=False``, and its own training
    state cannot be read otherwise. Needless once a release of mmengine reads
    weights only and registers its classes with torch. ``load`` reads local files.
    """
    _allow_training_state()
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        loader = _weights_only(loader) if prefix else load
        CheckpointLoader.register_scheme(prefix, loader, force=True)


def _allow_training_state() -> None:
    """Allow, by name, the classes that training states are made of, mmengine's and others'."""
    array = np.zeros(1)
    rebuild: Any = array.__reduce__()[0]
    scalar: Any = array[0].__reduce__()[0]
    classes = [HistoryBuffer, np.ndarray, np.dtype, _named('builtins', 'getattr', _method)]
    classes.append(Namespace)  # of a program's arguments
    classes.append(codecs.encode)  # of numpy's bytes; torch before 2.5 does not know it
    # numpy 2 moved these two; checkpoints of either numpy are read by both.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        classes += [_named(module, f.__name__, f) for f in (rebuild, scalar)]
    classes += [type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'float32', 'float64')]
    if hasattr(torch.serialization, 'add_safe_globals'):  # torch >= 2.4
        torch.serialization.add_safe_globals(classes)


def _method(owner: type, name: str) -> Callable:
    """Stand-in for the ``getattr`` by which mmengine's logs name their statistics."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr of {name}')
    return getattr(owner, name)


def _named(module: str, name: str, function: Callable) -> Callable:
    """A function under the name that checkpoints use for it."""

    def call(*args: Any) -> Any:
        return function(*args)

    # torch before 2.7 goes by the name, later ones by the qualified name.
    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call


def unsafe_allowed() -> bool:
    """Whether the user lets checkpoints hold any object, as torch understands it."""
    return os.environ.get(UNSAFE) in ('1', 'y', 'yes', 'true')


@contextlib.contextmanager
def refusing(name: str, whole: str | None = None) -> Iterator[None]:
    """Say which object in a checkpoint was refused, and how to allow it.

    ``whole``: the class of the object that was saved, where that is not a state dict.
    """
    try:
        yield
    except UnpicklingError as error:
        found = re.search(r'(?:GLOBAL|Unsupported class) ([\w.]+)', str(error))
        if found is None:
            raise ValueError(f'{name} is not a checkpoint of torch') from error
        what = f'a {found[1]}, which could run code on loading. '
        if whole:
            what = f'a whole {whole}, {what}Have its state_dict saved instead. '
        raise ValueError(
            f'{name} holds {what}If you trust whoever wrote the file, set the environment '
            f'variable {UNSAFE}=1'
        ) from error


def _weights_only(loader: Callable) -> Callable:
    """Have a loader of mmengine, such as that of https://, read weights only."""

    @wraps(loader)
    def load(filename: str, map_location: str | None = None) -> dict:
        if unsafe_allowed():
            return loader(filename, map_location)
        before = os.environ.get(_SAFE)
        os.environ[_SAFE] = '1'
        try:
            with refusing(filename):
                return loader(filename, map_location)
        finally:
            if before is None:
                del os.environ[_SAFE]
            else:
                os.environ[_SAFE] = before

    return load


def skip_first_batches(loader: DataLoader, count: int) -> None:
    """Have a loader leave out the first batches of its next pass, without loading them.

    torch's DataLoader lets no batch sampler be set once it is made, and loaders
    whose workers outlive an epoch would keep a sampler of their own. Needless
    once torch's loaders can start within a pass (torchdata's StatefulDataLoader does).
    """
    loader.__dict__['batch_sampler'] = _Remaining(loader.batch_sampler, count)


class _Remaining:
    """A batch sampler that leaves out its first batches, once."""

    def __init__(self, batches: Any, done: int) -> None:
        self._batches = batches
        self._done = done

    def __iter__(self) -> Iterator[list[int]]:
        # Nothing happens before the first batch: a DataLoader may ask for two iterators.
        done, self._done = self._done, 0
        for number, batch in enumerate(self._batches):
            if number >= done:
                yield batch

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


# What workers of loaders do on signals, by their numbers.
worker_handlers: dict[int, Callable[..., None]] = {}


def detach_loader(loader: DataLoader) -> None:
    """Give a loader a generator of its own, and its workers :data:`worker_handlers`.

    torch seeds workers from the generator that models draw from, so that a
    resumed run would draw other numbers; mmengine 0.10 passes no generator on.
    torch also sets a handler of SIGTERM that ends workers, which Python does not know of.
    """
    loader.generator = torch.Generator()
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)


def _start_worker(start: Callable[[int], None] | None, number: int) -> None:
    for signalled, handler in worker_handlers.items():
        signal.signal(signalled, handler)
    if start is not None:
        start(number)


def end_workers(loader: DataLoader) -> None:
    """End the workers that a loader keeps from epoch to epoch; the next epoch starts others.

    torch ends them when the loader is deleted. Where Python's garbage collection does that, as of
    runners, torch waits five seconds for each, then kills it.
    """
    iterator: Any = loader._iterator  # none where there are no workers to keep
    loader._iterator = None
    if iterator is not None:
        iterator._shutdown_workers()


def survive_full_disk(visualizer: Visualizer) -> None:
    """Have a visualizer warn where it cannot write, instead of ending the training.

    mmengine 0.10 lets the errors of its backends through.
    """
    for backend in visualizer._vis_backends.values():
        backend.add_scalars = partial(_try_to_write, backend.add_scalars)
        backend.close = partial(_try_to_write, backend.close)


def _try_to_write(write: Callable, *args: Any, **kwargs: Any) -> None:
    try:
        write(*args, **kwargs)
    except OSError as error:
        print_log(f'Logged values could not be written: {error}', 'current', logging.WARNING)


def bound_history(hub: MessageHub, length: int) -> None:
    """Have a hub keep the newest values of each scalar of the training only.

    mmengine 0.10 keeps a million, copies all of them for each new one, and saves
    them in each checkpoint. Needless once its HistoryBuffer grows in place.
    """
    update = hub.update_scalar

    def update_bounded(key: str, *args: Any, **kwargs: Any) -> None:
        update(key, *args, **kwargs)
        if key.startswith('train/'):
            hub.log_scalars[key].max_length = length

    hub.update_scalar = update_bounded


def watch_optimizer(
    wrapper: OptimWrapper, update: Callable[..., None], step: Callable[..., None]
) -> tuple[Callable, Callable]:
    """Put functions in the place of a wrapper's ``update_params`` and optimiser step.

    mmengine 0.10 has no hook between backward pass and step, where it must be decided
    whether to step. Returns the wrapper's own two, for the new ones to call.
    """
    own = wrapper.update_params, wrapper.step
    wrapper.update_params, wrapper.step = update, partial(step)
    wrapper.step._with_counter = True  # own[1] counts steps, which schedulers ask for
    return own


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what parents tell of each weight, stage and operator; warnings stay.

    mmengine logs a line for each initialised weight, mmpretrain one for each of
    timm's stages, and torch's exporter talks of operators that no backbone has.
    """
    logger, onnx = MMLogger.get_current_instance(), logging.getLogger('torch.onnx')
    levels = logger.level, onnx.level
    logger.setLevel(max(levels[0], logging.WARNING))
    onnx.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(levels[0])
        onnx.setLevel(levels[1])


_COLOR = re.compile(r'\x1b\[[0-9;]*m')
# Of mmengine's own classes, of parameters that are frozen on purpose, of evaluators that work.
_NOISE = re.compile(
    r'"FileClient" will be deprecated|"HardDiskBackend" is the alias of'
    r'|is skipped since its requires_grad=False|`metrics` is an empty'
    r'|prefix is not set in metric class'
)
_PROGRESS = re.compile(r'(Iter|Epoch)\((train|val)\)')
_WARNING = re.compile(r' - (WARNING|ERROR) - ')


def leave_out_noise(logger: logging.Logger) -> None:
    """Have a run's logger leave out warnings that tell its user nothing.

    mmengine 0.10 warns of each parameter that does not learn, a momentum encoder's among them, and
    of classes that its own hooks still use, before the first step.
    """
    logger.addFilter(lambda record: not _NOISE.search(record.getMessage()))


class _Filter(io.TextIOBase):
    """Passes a training's progress, warnings and errors on, without mmengine's heads of lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        line = _COLOR.sub('', text)
        message = line.partition(' - INFO - ')[2]
        if _PROGRESS.match(message):
            self.stream.write(f'    {message}')
        elif (found := _WARNING.search(line)) and not _NOISE.search(line):
            self.stream.write(f'    {found[1].capitalize()}: {line[found.end() :]}')
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


@contextlib.contextmanager
def only_progress() -> Iterator[None]:
    """Show progress, warnings and errors of mmengine's log; its file has everything.

    mmengine 0.10 has one level for console and file.
    """
    with contextlib.redirect_stdout(_Filter(sys.stdout)):
        yield


@contextlib.contextmanager
def launcher_that_waits(receive: Callable) -> Iterator[None]:
    """Have torch's elastic launcher leave signals to ``receive``, and say nothing.

    torch 2.10 sends a signal on, but kills the processes 30 seconds later and does not tell
    their exit codes, so that nobody knows whether they have saved a checkpoint; and it logs
    each end of a process, beside the error that it raises. Needless once the launchers of all
    versions that we take have ``signals_to_handle``, and a way to say less.
    """
    names = ('torch.distributed.elastic', 'torch.multiprocessing.spawn')
    loggers, silent = [logging.getLogger(name) for name in names], logging.NullHandler()
    handler, elastic._terminate_process_handler = elastic._terminate_process_handler, receive
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(silent)
    try:
        yield
    finally:
        elastic._terminate_process_handler = handler
        for logger in loggers:
            logger.propagate = True
            logger.removeHandler(silent)
