"""Smaller and larger parts of a labelled set, which have the classes as the whole has them."""

from collections.abc import Collection, Hashable, Sequence

import numpy as np


def stratified_order(classes: Sequence[Collection[Hashable]], seed: int) -> list[int]:
    """Shuffle images such that the first n of them, for any n, have each class in its share.

    The first n are a part of the first n + 1, whatever other parts are taken. Images are grouped
    by the rarest of their classes, within a group by the rarest of their others, and so on; each
    group is spread evenly over the order. If n is the number of the rarest classes or more,
    each of these is among the first n.

    Args:
        classes: Those of each image; several, one or none.
        seed: Seed of the shuffling.

    Returns:
        Numbers of the images.
    """
    counts: dict[Hashable, int] = {}
    for of_image in classes:
        for name in set(of_image):
            counts[name] = counts.get(name, 0) + 1
    # Names decide between classes that are as rare.
    rarest_first = [sorted(set(c), key=lambda name: (counts[name], str(name))) for c in classes]
    random = np.random.default_rng(seed)
    return [number for _, number in _spread(range(len(classes)), rarest_first, 0, random)]


def _spread(
    numbers: Sequence[int], classes: list[list], depth: int, random: np.random.Generator
) -> list[tuple[float, int]]:
    """Numbers and their places from 0 to 1, in the order of these."""
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        name = classes[number][depth] if depth < len(classes[number]) else None
        groups.setdefault(name, []).append(number)
    placed = []
    for name, group in groups.items():
        if name is None:
            order = random.permutation(group).tolist()
        else:
            order = [number for _, number in _spread(group, classes, depth + 1, random)]
        # The classes themselves begin at 0, so that each is there soon.
        start = random.random() if depth else random.random() / len(numbers)
        placed += [((rank + start) / len(order), number) for rank, number in enumerate(order)]
    return sorted(placed)
