"""SNCLR on OpenMMLab: soft-neighbour contrastive pretraining and its transfer.

Importing the package registers its parts with mmpretrain and mmengine and lets
configs name their parents as ``mmsnclr::...``.
"""

from .utils.requirements import check_requirements
from .version import __version__

check_requirements()

from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

from . import datasets, engine, models, registry  # noqa: E402

MODULE2PACKAGE.setdefault('mmsnclr', 'mmsnclr')

__all__ = ['__version__', 'datasets', 'engine', 'models', 'registry']
