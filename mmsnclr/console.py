"""What a user sees of long work."""

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import click

_T = TypeVar('_T')

_COLOR = re.compile(r'\x1b\[[0-9;]*m')
_NOISE = re.compile(r'deprecated|is the alias of|skipped since its requires_grad')
_PROGRESS = re.compile(r'(Iter|Epoch)\((train|val)\)')


class _Filter(io.TextIOBase):
    """Passes a training's progress, warnings and errors on."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        line = _COLOR.sub('', text)
        message = line.partition(' - INFO - ')[2]
        if _PROGRESS.match(message):
            self.stream.write(f'    {message}')
        elif re.search(' - (WARNING|ERROR) - ', line) and not _NOISE.search(line):
            self.stream.write(line)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


@contextlib.contextmanager
def only_progress() -> Iterator[None]:
    """Show progress, warnings and errors of mmengine's log; its file has everything."""
    with contextlib.redirect_stdout(_Filter(sys.stdout)):
        yield


def track(items: Iterable[_T], label: str, progress: bool = True) -> Iterator[_T]:
    """Yield items, with a progress bar where there is a terminal.

    Args:
        items: What is worked through.
        label: What the work is.
        progress: Whether to show anything.
    """
    if not progress:
        yield from items
        return
    with click.progressbar(items, label=label) as bar:
        yield from bar


class Setting(NamedTuple):
    """A setting that was chosen, as users see it.

    Attributes:
        name: What it is.
        value: What it is set to.
        reason: Why.
    """

    name: str
    value: str
    reason: str


def settings_table(settings: list[Setting]) -> str:
    """Lay settings out in columns.

    Args:
        settings: Some settings.

    Returns:
        A line for each.
    """
    name, value = (max(len(row[column]) for row in settings) for column in (0, 1))
    return '\n'.join(f'  {s.name:{name}}  {s.value:>{value}}  {s.reason}' for s in settings)
