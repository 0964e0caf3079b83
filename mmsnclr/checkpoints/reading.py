"""Checkpoints, read without running what they hold, and once."""

import ast
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from mmengine.config import Config
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..parents import refusing, unsafe_allowed
from .formats import foreign_format, whole_object

# What torch.load raises of bytes that it cannot read.
_NO_CHECKPOINT = (AssertionError, AttributeError, LookupError, TypeError, ValueError, struct.error)
_WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+')

# What `at_hand` was given, by absolute path.
_AT_HAND: dict[str, Any] = {}


@dataclass(frozen=True)
class Stored:
    """What a checkpoint file holds, of this or another library.

    Attributes:
        path: The file.
        content: What was saved.
    """

    path: Path
    content: Any

    @classmethod
    def read(cls, path: str | Path) -> 'Stored':
        """Read a file as :func:`load_checkpoint` does."""
        return cls(Path(path), load_checkpoint(str(path)))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The tensors of ``state_dict``, ``model``, ``teacher`` or else of the content itself.

        None if it is no dictionary; names without what DDP and ``torch.compile``
        put before them, and with those of dictionaries within dictionaries before them.
        """
        part = self.content
        for name in ('state_dict', 'model', 'teacher'):
            inner = part.get(name) if isinstance(part, dict) else None
            part = inner if isinstance(inner, dict | nn.Module) else part
        if isinstance(part, nn.Module):  # which the user allowed
            part = part.state_dict()
        return dict(_tensors(part)) if isinstance(part, dict) else {}

    @cached_property
    def meta(self) -> dict:
        """What was noted beside the weights."""
        meta = self.content.get('meta') if isinstance(self.content, dict) else None
        return meta if isinstance(meta, dict) else {}

    @cached_property
    def config(self) -> Config | None:
        """The config of the training, read as data: unlike mmengine's reader it runs nothing.

        ``None`` if there is none.

        Raises:
            ValueError: If it is more than assignments of plain values.
        """
        text = self.meta.get('cfg')
        return _config(text) if isinstance(text, str) else None


def _tensors(part: dict) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a dictionary or, if it has none, of the dictionaries in it."""
    found = {key: value for key, value in part.items() if isinstance(value, Tensor)}
    for key, value in found.items():
        yield _WRAPPERS.sub('', key) if isinstance(key, str) else key, value
    if not found:
        for outer, inner in part.items():
            if isinstance(inner, dict):
                yield from ((f'{outer}.{key}', value) for key, value in _tensors(inner))


@contextmanager
def at_hand(*files: Stored) -> Iterator[None]:
    """Have whoever loads one of these files meanwhile get what was read, mmengine included."""
    before = dict(_AT_HAND)
    _AT_HAND.update((os.path.abspath(file.path), file.content) for file in files)
    try:
        yield
    finally:
        _AT_HAND.clear()
        _AT_HAND.update(before)


def load_checkpoint(path: str, map_location: str | None = 'cpu', mmap: bool = False) -> dict:
    """Read a checkpoint file: tensors, plain values and mmengine's logs, nothing else.

    The one way in which mmsnclr reads checkpoints; mmengine reads local files
    through it, too. The environment variable
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` lets a file hold any object, and with
    it code that runs on loading.

    Args:
        path: The file, of torch or, by its suffix, of safetensors.
        map_location: As for ``torch.load``; not of what is :func:`at_hand`.
        mmap: Leave the tensors on the disk until they are used.

    Returns:
        What was saved; of safetensors ``state_dict`` and ``meta``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another format, or holds what could run code.
    """
    path = os.path.expanduser(path)
    if os.path.abspath(path) in _AT_HAND:
        return _AT_HAND[os.path.abspath(path)]
    if not os.path.isfile(path):
        raise FileNotFoundError(f'no checkpoint at {path!r}')
    if words := foreign_format(path):
        raise ValueError(f'{path} is {words}')
    damaged = ValueError(f'{path} is damaged or was not written to its end')
    if path.endswith('.safetensors'):
        try:
            with safe_open(path, 'pt', device=map_location or 'cpu') as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return dict(state_dict=weights, meta=file.metadata() or {})
        except SafetensorError as error:
            raise damaged from error
    with refusing(path, whole_object(path)):
        try:
            return torch.load(
                path,
                map_location=map_location,
                mmap=mmap and is_zipfile(path),  # it cannot with files of torch before 1.6
                weights_only=not unsafe_allowed(),
            )
        except EOFError as error:
            raise damaged from error
        except _NO_CHECKPOINT as error:
            raise ValueError(f'{path} is not a checkpoint of torch') from error
        except RuntimeError as error:
            if 'PytorchStreamReader' in str(error) or not is_zipfile(path):
                raise damaged from error
            raise


def _config(text: str) -> Config:
    """A config's text, read as assignments of plain values."""
    try:
        lines: list[Any] = ast.parse(text).body
        return Config({line.targets[0].id: _value(line.value) for line in lines})
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


def _value(node: Any) -> object:
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
