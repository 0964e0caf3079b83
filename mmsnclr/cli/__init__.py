"""The `mmsnclr` command: each verb is a function of `mmsnclr.api`."""

# In the order in which `mmsnclr --help` lists the verbs.
from . import pretraining, features, exchange, detection, installation  # isort: skip
from .group import main

__all__ = ['detection', 'exchange', 'features', 'installation', 'main', 'pretraining']
