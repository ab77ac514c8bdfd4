"""Classifiers that learn from a teacher too, by a head of its own for it, as DeiT and LeViT do."""

import torch
from mmengine.registry import MODELS
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.models.heads.levit_head import BatchNormLinear
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from castling_det.checkpoint import load_weights
from castling_det.errors import InputError


@MODELS.register_module()
class DistilledHead(ClsHead):
    """LeViT's two classifiers: one learns the labels, the other what a teacher says.

    Each is a batch norm and a linear layer. A prediction is the mean of their logits. mmpretrain's
    ``LeViTClsHead`` has the same keys, but cannot be trained so.

    Args:
        num_classes (int): K.
        in_channels (int): C.
        loss (dict): Config of the loss of the labels. Defaults to cross entropy.

    Source: Touvron et al., DeiT, arXiv:2012.12877, equation 3, hard labels; Graham et al., LeViT,
    arXiv:2104.01136, section 4.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: dict = dict(type='CrossEntropyLoss'),
    ) -> None:
        super().__init__(loss=loss)
        self.head = BatchNormLinear(in_channels, num_classes)
        self.head_dist = BatchNormLinear(in_channels, num_classes)
        for classifier in (self.head, self.head_dist):
            nn.init.trunc_normal_(classifier.linear.weight, std=0.02)
            nn.init.zeros_(classifier.linear.bias)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Features, the last of them ``(B, C)``, to logits ``(B, K)``."""
        return torch.stack(self.both(feats)).mean(dim=0)

    def both(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits ``(B, K)`` of the classifier of labels, and of the teacher's."""
        x = self.pre_logits(feats)
        return self.head(x), self.head_dist(x)

    def loss(self, feats: tuple[Tensor, ...], data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Half of each classifier's loss.

        Args:
            feats (tuple[Tensor]): As for :meth:`forward`.
            data_samples (list[DataSample]): With labels, and ``teacher_label``, the class ``()``
                that the teacher sees in the image.
        """
        of_labels, of_teacher = self.both(feats)
        taught = torch.stack([sample.teacher_label for sample in data_samples])
        return dict(
            loss_labels=self._get_loss(of_labels, data_samples)['loss'] / 2,
            loss_teacher=F.cross_entropy(of_teacher, taught) / 2,
        )


@MODELS.register_module()
class DistilledClassifier(ImageClassifier):
    """An :class:`ImageClassifier` whose head is told what a teacher sees in each image.

    The teacher looks at the same images, mixed and normalised. It is read when a training starts,
    is not trained, and is in no checkpoint: tests and files need none.

    Args:
        backbone (dict): Config of the backbone.
        neck (dict): Config of the neck.
        head (dict): Config of a :class:`DistilledHead`.
        teacher (dict): Config of a classifier of the same classes, which takes what the student's
            ``data_preprocessor`` gives.
        teacher_checkpoint (str): Its weights, a local file that fills it whole.
        train_cfg (dict, optional): As the parent's.
        data_preprocessor (dict): As the parent's.
        init_cfg (dict, optional): As the parent's.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        teacher: dict,
        teacher_checkpoint: str,
        data_preprocessor: dict,
        train_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            backbone,
            neck,
            head,
            train_cfg=train_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.teacher_cfg, self.teacher_checkpoint = teacher, teacher_checkpoint
        self.teachers: list[nn.Module] = []  # one in a list is no part of this module

    def init_weights(self) -> None:
        """Initialise the student, and read the teacher.

        Raises:
            InputError: If the teacher's file is not read, or does not fill it.
        """
        super().init_weights()
        teacher = MODELS.build(self.teacher_cfg)
        load_weights(teacher, self.teacher_checkpoint)
        self.teachers = [teacher.eval().requires_grad_(False)]

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of the head.

        Args:
            inputs (Tensor): ``(B, 3, H, W)``, normalised.
            data_samples (list[DataSample]): With labels.

        Raises:
            InputError: If :meth:`init_weights` was not called, or if the teacher has other classes.
        """
        if not self.teachers:
            raise InputError('a DistilledClassifier reads its teacher in init_weights: call it')
        (teacher,) = self.teachers
        with torch.no_grad():
            logits = teacher.to(inputs.device)(inputs)
        num_classes = self.head.head.linear.out_features
        if logits.shape[1] != num_classes:
            raise InputError(
                f'model.teacher has {logits.shape[1]} classes, but model.head {num_classes}'
            )
        for sample, label in zip(data_samples, logits.argmax(dim=1), strict=True):
            sample.teacher_label = label
        return self.head.loss(self.extract_feat(inputs), data_samples)
