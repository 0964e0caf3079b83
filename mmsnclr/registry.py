"""The scope ``mmsnclr``, for configs that inherit ``mmsnclr::...``.

mmengine gives whatever such a config inherits the scope ``mmsnclr`` and looks
it up there. Our parts are registered with mmpretrain (and, where detectors use
them too, with mmengine), so this scope is an empty child of mmpretrain's.
"""

from mmengine.registry import Registry
from mmpretrain import registry as parents

for parent in list(vars(parents).values()):
    if isinstance(parent, Registry) and parent.scope == 'mmpretrain':
        Registry(parent.name, parent=parent, scope='mmsnclr', locations=['mmsnclr'])
