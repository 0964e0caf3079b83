"""Training around the method: hooks, loops, optimisers, the runner."""

from . import hooks, loops, optim
from .runner import build_runner

__all__ = ['build_runner', 'hooks', 'loops', 'optim']
