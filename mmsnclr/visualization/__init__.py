"""Pictures and pages of what was learned."""

from .detections import draw_detections
from .neighbors import Gallery, draw_neighbors, find_neighbors, write_neighbors_page
from .projection import draw_projection, project
from .report import write_report

__all__ = [
    'Gallery',
    'draw_detections',
    'draw_neighbors',
    'draw_projection',
    'find_neighbors',
    'project',
    'write_neighbors_page',
    'write_report',
]
