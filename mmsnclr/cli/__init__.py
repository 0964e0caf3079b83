"""The `mmsnclr` command: each verb is a function of `mmsnclr.api`."""

# In the order in which `mmsnclr --help` lists the verbs.
from . import pretraining, features, exchange, detection, classification, installation  # isort: skip
from .group import main

__all__ = [
    'classification',
    'detection',
    'exchange',
    'features',
    'installation',
    'main',
    'pretraining',
]
