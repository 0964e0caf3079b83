"""SNCLR on OpenMMLab: soft-neighbour contrastive pretraining and its transfer.

Importing the package registers its parts with mmpretrain and mmengine and lets
configs name their parents as ``mmsnclr::...``.
"""

from .requirements import check_requirements
from .version import __version__

check_requirements()

from . import parents  # noqa: E402
from .checkpoints import load_checkpoint  # noqa: E402

parents.name_package()
parents.leave_out_multimodal_models()
parents.read_checkpoints_by(load_checkpoint)
with parents.without_prints():
    from . import datasets, engine, models, registry

__all__ = ['__version__', 'datasets', 'engine', 'models', 'registry']
