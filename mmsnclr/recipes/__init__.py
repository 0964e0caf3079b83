"""Configs of `configs/`, fitted to a user's own set."""

from .detection import load_detector
from .pretraining import fit_to_epochs, fit_to_images, load_recipe

__all__ = ['fit_to_epochs', 'fit_to_images', 'load_detector', 'load_recipe']
