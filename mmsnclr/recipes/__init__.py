"""Configs of `configs/`, fitted to a user's own set."""

from .detection import detector_config
from .pretraining import fit_to_epochs, fit_to_images, load_recipe

__all__ = ['detector_config', 'fit_to_epochs', 'fit_to_images', 'load_recipe']
