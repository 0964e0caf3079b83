"""How good a representation is."""

from .features import extract_features
from .knn import evaluate_knn, knn_accuracy

__all__ = ['evaluate_knn', 'extract_features', 'knn_accuracy']
