"""What a user sees of long work; a training's log is mmengine's."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import click

_T = TypeVar('_T')


def say(text: str, err: bool = False) -> None:
    """Tell the user something.

    Args:
        text: One or more lines.
        err: Whether it goes to the error stream, beside results.
    """
    click.echo(text, err=err)


def track(items: Iterable[_T], label: str, length: int | None = None) -> Iterator[_T]:
    """Yield items, with a progress bar where there is a terminal.

    ``length`` is how many there are, if they do not say it.
    """
    with click.progressbar(items, length=length, label=label, show_pos=True) as bar:
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
    """Lay settings out in columns, a line for each."""
    name, value = (max(len(row[column]) for row in settings) for column in (0, 1))
    return '\n'.join(f'  {s.name:{name}}  {s.value:>{value}}  {s.reason}' for s in settings)
