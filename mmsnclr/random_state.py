"""The states of all random generators of a process."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_random_state() -> dict:
    """States of torch (this CUDA device included), numpy and Python, as plain values."""
    state: Any = np.random.get_state()
    name, keys, *rest = state
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        numpy=(name, keys.tolist(), *rest),
        python=random.getstate(),
    )


def set_random_state(state: dict) -> None:
    """Put back what :func:`get_random_state` returned."""
    torch.set_rng_state(state['torch'].cpu())
    if state.get('cuda') is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
    np.random.set_state(state['numpy'])
    random.setstate(state['python'])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the host's generators by 32 bits, and put them back; devices are left alone."""
    state = dict(torch=torch.get_rng_state(), numpy=np.random.get_state(), python=random.getstate())
    random.seed(seed)
    np.random.seed(seed)
    # Not torch.manual_seed, which would queue a call for each CUDA device.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(state)
