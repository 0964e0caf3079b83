"""Pictures of what was learned."""

from .neighbors import draw_neighbors

__all__ = ['draw_neighbors']
