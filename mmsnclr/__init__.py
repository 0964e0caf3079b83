"""SNCLR on OpenMMLab: soft-neighbour contrastive pretraining and its transfer.

Importing the package registers its parts with mmpretrain and mmengine and lets
configs name their parents as ``mmsnclr::...``.
"""

import contextlib
import io

from .requirements import check_requirements
from .version import __version__

check_requirements()

from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

# A fork of mmpretrain prints which of its data sets it does without.
with contextlib.redirect_stdout(io.StringIO()):
    from . import datasets, engine, models, registry

MODULE2PACKAGE.setdefault('mmsnclr', 'mmsnclr')

__all__ = ['__version__', 'datasets', 'engine', 'models', 'registry']
