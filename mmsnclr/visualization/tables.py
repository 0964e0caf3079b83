"""Rows of tables in markdown."""

import math


def row(*cells: object) -> str:
    """A row; numbers with one digit behind the point, nothing for nan."""
    shown = [f'{c:.1f}' if isinstance(c, float) and not math.isnan(c) else c for c in cells]
    return f'| {" | ".join("" if isinstance(c, float) else _cell(c) for c in shown)} |\n'


def points(difference: tuple[float, float, float] | None) -> str:
    """A difference of accuracies, and its interval; nothing if there is none."""
    return '{:+.1f} [{:+.1f}, {:+.1f}]'.format(*difference) if difference else ''


def _cell(value: object) -> str:
    """A value as a table of markdown can hold it."""
    return ' '.join(str(value).split()).replace('|', '\\|')
