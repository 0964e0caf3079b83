"""Data for pretraining."""

from .transforms import SeededMultiView
from .views import AugmentedViews

__all__ = ['AugmentedViews', 'SeededMultiView']
