"""What classifiers need besides their backbone: LeViT's distillation, and pictures.

Needs mmpretrain.
"""

from castling_det.classification.distillation import DistilledClassifier, DistilledHead
from castling_det.datasets.loading import LoadReadableImage
from castling_det.visualization.classes import ClassVisualizer
from castling_det.visualization.hooks import OverlayHook

__all__ = [
    'ClassVisualizer',
    'DistilledClassifier',
    'DistilledHead',
    'LoadReadableImage',
    'OverlayHook',
]
