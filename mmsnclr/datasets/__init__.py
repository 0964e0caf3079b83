"""Data for pretraining."""

from .transforms import SeededMultiView

__all__ = ['SeededMultiView']
