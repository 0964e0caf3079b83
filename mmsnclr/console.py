"""What a user sees of long work; a training's log is mmengine's."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import NamedTuple, TypeVar

import click

_T = TypeVar('_T')
_UNITS = dict(d=86_400, h=3600, m=60, s=1)


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


def check_least(arguments: Mapping[str, float | None], **least: float) -> None:
    """Check numbers that a user may have chosen; ``None`` is no choice.

    Raises:
        ValueError: If one is less than its least value, or no number.
    """
    for name, bound in least.items():
        value = arguments[name]
        if value is not None and not value >= bound:  # nan is not
            raise ValueError(f'{name}={value} must be at least {bound}')


def check_positive(arguments: Mapping[str, float | None], *names: str) -> None:
    """Check likewise what may be any positive number.

    Raises:
        ValueError: If one is not, or not finite.
    """
    for name in names:
        value = arguments[name]
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f'{name}={value} must be greater than 0')


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: those like it, if there are any."""
    alike = get_close_matches(name, list(known))
    return f'; did you mean {" or ".join(alike)}?' if alike else ''


def parse_time(text: str) -> float:
    """Seconds of a duration such as ``'90s'``, ``'30m'``, ``'1h30m'`` or ``'2d'``.

    Raises:
        ValueError: If it is not a duration.
    """
    parts = re.findall(r'(\d+(?:\.\d+)?)([dhms])', text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not seconds or ''.join(number + unit for number, unit in parts) != text:
        raise ValueError(f'time={text!r} is no duration: pass one such as 45s, 30m, 1h30m or 2d')
    return seconds


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are two."""
    unit = next((unit for unit, length in _UNITS.items() if seconds >= 2 * length), 's')
    return f'{seconds / _UNITS[unit]:.3g} {unit}'
