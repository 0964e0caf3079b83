"""Pictures of what was learned."""

from .detections import draw_detections
from .neighbors import draw_neighbors

__all__ = ['draw_detections', 'draw_neighbors']
