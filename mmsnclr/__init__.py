"""SNCLR on OpenMMLab: soft-neighbour contrastive pretraining and its transfer.

Importing the package registers its parts with mmpretrain and mmengine and lets
configs name their parents as ``mmsnclr::...``.
"""

import os
import sys

from .requirements import check_requirements
from .version import __version__

try:
    check_requirements()
except ImportError as error:
    if os.path.basename(sys.argv[0]) in ('mmsnclr', '-m'):  # who types a command is told in a line
        raise SystemExit(f'Error: {error}') from None
    raise

from . import parents
from .checkpoints import load_checkpoint

parents.name_package()
parents.leave_out_multimodal_models()
parents.leave_out_pillows_limit()
parents.keep_activations()
parents.read_checkpoints_by(load_checkpoint)
with parents.without_prints():
    from . import datasets, engine, models, registry

__all__ = ['__version__', 'datasets', 'engine', 'models', 'registry']
