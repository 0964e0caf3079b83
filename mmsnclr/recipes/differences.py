"""What a run began with, compared with what it is to go on with."""

from collections.abc import Iterator
from typing import Any

from ..datasets.coco_shapes import short

_SHOWN = 5


def differences(before: Any, now: Any) -> str:
    """Name values that differ, by their keys, at most a few of them.

    Args:
        before: Dictionaries, lists and values in each other.
        now: The same later.

    Returns:
        Each key with both values.
    """
    before, now = dict(_leaves(before)), dict(_leaves(now))
    names = [name for name in before | now if before.get(name) != now.get(name)]
    parts = [
        f'{name} was {short(before.get(name))}, is {short(now.get(name))}'
        for name in names[:_SHOWN]
    ]
    more = f', and {len(names) - _SHOWN} others' if len(names) > _SHOWN else ''
    return '; '.join(parts) + more


def _leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _leaves(inner, f'{name}.{key}' if name else str(key))
    else:
        yield name, value
