"""How good a representation is."""

from .coco import evaluate_coco
from .features import extract_features
from .knn import evaluate_knn, knn_accuracy

__all__ = [
    'evaluate_coco',
    'evaluate_knn',
    'extract_features',
    'knn_accuracy',
]
