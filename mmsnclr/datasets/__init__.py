"""Data for pretraining, and the check of data for detection."""

from .coco_check import check_coco
from .image_folder import ImageFolder
from .image_list import ImageList
from .loading import LoadAnyImage
from .transforms import SeededMultiView
from .views import AugmentedViews

__all__ = [
    'AugmentedViews',
    'ImageFolder',
    'ImageList',
    'LoadAnyImage',
    'SeededMultiView',
    'check_coco',
]
