"""What goes into a file of a classifier: all between RGB pixels and scores. Needs mmpretrain."""

from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import ClsHead
from torch import Tensor

from castling_det.errors import InputError
from castling_det.export.graph import Graph


class ClassifierGraph(Graph):
    """RGB pixels to the logits of an :class:`ImageClassifier`, or to its scores.

    Args:
        classifier (ImageClassifier): In eval mode; it is not copied.
        decodes (bool): Scores, whose sum is 1, or the logits.

    Raises:
        InputError: If the model is another one, or if images are not normalised as RGB.
    """

    task = 'classification'

    def __init__(self, classifier: ImageClassifier, decodes: bool) -> None:
        head, preprocessor = classifier.head, classifier.data_preprocessor
        if getattr(type(head), 'predict', None) is not ClsHead.predict:
            raise InputError(
                'only classifiers whose scores are the softmax of their logits are exported, not '
                f'{type(classifier).__name__} with {type(head).__name__}'
            )
        super().__init__(classifier, decodes, preprocessor.pad_size_divisor, preprocessor.pad_value)

    @property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Names of what :meth:`forward` returns, and of its dimensions."""
        return {'scores' if self.decodes else 'logits': ('batch',)}

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Classify.

        Args:
            image (Tensor): ``(B, 3, H, W)``, float32, RGB, 0 to 255.

        Returns:
            tuple[Tensor]: Scores ``(B, classes)``, float32, or, not decoded, the logits.
        """
        logits = self.model.head(self.model.extract_feat(self.prepare(image))).float()
        return (logits.softmax(dim=1) if self.decodes else logits,)
