"""Checkpoints: written whole or not at all, read without running what they hold."""

import ast
import codecs
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pickle import UnpicklingError
from zipfile import is_zipfile

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

UNSAFE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


def _method(owner: type, name: str) -> Callable:
    """Stand-in for the ``getattr`` by which mmengine's logs name their statistics."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr of {name}')
    return getattr(owner, name)


def _allow_training_state() -> None:
    """Allow, by name, the classes that mmengine's training state is made of."""
    array = np.zeros(1)
    rebuild, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    classes = [HistoryBuffer, np.ndarray, np.dtype, _named('builtins', 'getattr', _method)]
    classes.append(codecs.encode)  # of numpy's bytes; torch before 2.5 does not know it
    # numpy 2 moved these two; checkpoints of either numpy are read by both.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        classes += [_named(module, f.__name__, f) for f in (rebuild, scalar)]
    classes += [type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'float32', 'float64')]
    if hasattr(torch.serialization, 'add_safe_globals'):  # torch >= 2.4
        torch.serialization.add_safe_globals(classes)


def _named(module: str, name: str, function: Callable) -> Callable:
    """A function under the name that checkpoints use for it."""

    def call(*args):
        return function(*args)

    # torch before 2.7 goes by the name, later ones by the qualified name.
    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call


def load_checkpoint(path: str, map_location: str = 'cpu', mmap: bool = False) -> dict:
    """Read a checkpoint file: tensors, plain values and mmengine's logs, nothing else.

    The one way in which mmsnclr reads checkpoints; mmengine reads local files
    through it, too. The environment variable
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` lets a file hold any object, and with
    it code that runs on loading.

    Args:
        path: The file, of torch or, by its suffix, of safetensors.
        map_location: As for ``torch.load``.
        mmap: Leave the tensors on the disk until they are used.

    Returns:
        What was saved.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds what could run code.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no checkpoint at {path!r}')
    damaged = ValueError(f'{path} is damaged or was not written to its end')
    if path.endswith('.safetensors'):
        try:
            return load_file(path, map_location or 'cpu')
        except SafetensorError as error:
            raise damaged from error
    if mmap and not is_zipfile(path):
        raise damaged
    with _refusing(path):
        try:
            return torch.load(
                path, map_location=map_location, mmap=mmap, weights_only=not _unsafe()
            )
        except EOFError as error:
            raise damaged from error
        except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            raise ValueError(f'{path} is not a checkpoint of torch') from error
        except RuntimeError as error:
            if 'PytorchStreamReader' in str(error):
                raise damaged from error
            raise


def weights_in(checkpoint: object) -> dict[str, Tensor]:
    """The weights in a checkpoint of this or another library.

    Args:
        checkpoint: What :func:`load_checkpoint` returned.

    Returns:
        The tensors of its ``state_dict`` or ``model`` or, if it has neither, of
        itself; none if it is no dictionary.
    """
    for name in ('state_dict', 'model'):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(name), dict):
            checkpoint = checkpoint[name]
    if not isinstance(checkpoint, dict):
        return {}
    return {key: value for key, value in checkpoint.items() if isinstance(value, Tensor)}


def _unsafe() -> bool:
    return os.environ.get(UNSAFE) in ('1', 'y', 'yes', 'true')


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Say which object was refused, and how to allow it."""
    try:
        yield
    except UnpicklingError as error:
        found = re.search(r'(?:GLOBAL|Unsupported class) ([\w.]+)', str(error))
        if found is None:
            raise ValueError(f'{name} is not a checkpoint of torch') from error
        raise ValueError(
            f'{name} holds a {found[1]}, which could run code on loading. If you trust whoever '
            f'wrote the file, set the environment variable {UNSAFE}=1'
        ) from error


def _weights_only(loader):
    """Have a loader of mmengine, such as that of https://, read weights only."""

    @wraps(loader)
    def load(filename: str, map_location: str | None = None) -> dict:
        if _unsafe():
            return loader(filename, map_location)
        before = os.environ.get(_SAFE)
        os.environ[_SAFE] = '1'
        try:
            with _refusing(filename):
                return loader(filename, map_location)
        finally:
            if before is None:
                del os.environ[_SAFE]
            else:
                os.environ[_SAFE] = before

    return load


def load_from_local(filename: str, map_location: str | None = None) -> dict:
    """:func:`load_checkpoint` as mmengine's loader of local files."""
    return load_checkpoint(filename, map_location)


_allow_training_state()
for _prefix, _loader in list(CheckpointLoader._schemes.items()):
    CheckpointLoader.register_scheme(
        _prefix, _weights_only(_loader) if _prefix else load_from_local, force=True
    )


def stored_config(checkpoint: dict) -> Config | None:
    """The config in a checkpoint, read as data: unlike mmengine's reader it runs nothing.

    Args:
        checkpoint: What :func:`load_checkpoint` returned.

    Returns:
        The config, or ``None`` if the checkpoint has none.

    Raises:
        ValueError: If the config is more than assignments of plain values.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(text, str):
        return None
    try:
        return Config({line.targets[0].id: _value(line.value) for line in ast.parse(text).body})
    # Whatever a damaged text leads the parser and Config into.
    except (
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"the checkpoint's config is not plain values: {error}") from error


def _value(node: ast.expr) -> object:
    """The value of an expression of literals and ``dict(...)``."""
    match node:
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=items) if all(
            item.arg for item in items
        ):
            return {item.arg: _value(item.value) for item in items}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as names], keywords=[]):
            return _value(names)
        case ast.Dict(keys=keys, values=values):
            return {_value(key): _value(value) for key, value in zip(keys, values)}
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Name(id='inf' | 'nan' as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id='inf')):
            return -float('inf')
    return ast.literal_eval(node)
