"""Data for pretraining."""

from .image_list import ImageList
from .transforms import SeededMultiView
from .views import AugmentedViews

__all__ = ['AugmentedViews', 'ImageList', 'SeededMultiView']
