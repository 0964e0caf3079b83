"""Pictures and pages of what was learned."""

from .confusion_matrix import plot_confusion_matrix
from .detections import draw_detections
from .mistakes import write_mistakes_page
from .neighbors import Gallery, draw_neighbors, find_neighbors, write_neighbors_page
from .precision_recall import plot_precision_recall
from .projection import draw_projection, project
from .report import write_report

__all__ = [
    'Gallery',
    'draw_detections',
    'draw_neighbors',
    'draw_projection',
    'find_neighbors',
    'plot_confusion_matrix',
    'plot_precision_recall',
    'project',
    'write_mistakes_page',
    'write_neighbors_page',
    'write_report',
]
