"""Timing of alternatives against each other, in turns, as a machine's speed drifts."""

import time
from collections.abc import Callable
from statistics import median


def in_turns(alternatives: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time alternatives in turns.

    Args:
        alternatives: What to call, by name.
        rounds: How often each is timed, after one untimed call.

    Returns:
        The median time of each, in seconds.
    """
    times = {name: [] for name in alternatives}
    for number in range(rounds + 1):
        for name, call in alternatives.items():
            start = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: median(taken) for name, taken in times.items()}


def print_table(header: list[str], rows: list[list[object]]) -> None:
    """Print a Markdown table."""
    cells = [header, ['---'] * len(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print('| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |')
