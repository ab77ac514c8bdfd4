"""Demo data that the package makes by itself, and checking, loading and browsing any data."""

from castling_det.datasets.scenes import CLASSES, PALETTE, render_scene
from castling_det.datasets.shapes import count_instances, write_shapes

__all__ = ['CLASSES', 'PALETTE', 'count_instances', 'render_scene', 'write_shapes']
