"""Data that the package makes by itself."""

from castling_det.datasets.shapes import (
    CLASSES,
    PALETTE,
    count_instances,
    render_scene,
    write_shapes,
)

__all__ = ['CLASSES', 'PALETTE', 'count_instances', 'render_scene', 'write_shapes']
