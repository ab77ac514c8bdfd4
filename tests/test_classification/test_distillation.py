"""LeViT's distillation: what each of the two classifiers learns, and where the teacher is."""

from copy import deepcopy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.heads import LeViTClsHead
from mmpretrain.structures import DataSample
from torch.nn import functional as F

import castling_det.classification  # noqa: F401  registers the types
from castling_det.classification import DistilledHead
from castling_det.errors import InputError

TEACHER = dict(
    type='ImageClassifier',
    backbone=dict(
        type='CastlingLeViT',
        arch=dict(embed_dims=(32, 48, 64), num_heads=(2, 3, 4), depths=(1, 0, 0), key_dims=16),
        out_indices=(3,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
    data_preprocessor=dict(mean=[100] * 3, std=[50] * 3, num_classes=3),
)
STUDENT = dict(
    TEACHER,
    type='DistilledClassifier',
    head=dict(
        type='DistilledHead',
        num_classes=3,
        in_channels=64,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    teacher=TEACHER,
)


@pytest.fixture
def teacher(tmp_path) -> torch.nn.Module:
    init_default_scope('mmpretrain')
    torch.manual_seed(1)
    teacher = MODELS.build(deepcopy(TEACHER)).eval()
    torch.nn.init.normal_(teacher.head.fc.weight, std=9)
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    return teacher


@pytest.fixture
def student(teacher, tmp_path) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = dict(deepcopy(STUDENT), teacher_checkpoint=str(tmp_path / 'teacher.pth'))
    student = MODELS.build(cfg)
    student.init_weights()
    return student.train()


def samples() -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in (0, 2, 1, 1)]


def test_each_classifier_has_its_own_targets(student, teacher):
    images = torch.linspace(-3, 3, 4)[:, None, None, None] * torch.rand(4, 3, 48, 64)
    losses = student.loss(images, samples())
    student.zero_grad()
    of_labels, of_teacher = student.head.both(student.extract_feat(images))
    labels = torch.tensor([0, 2, 1, 1])
    taught = teacher(images).argmax(dim=1)
    assert len(taught.unique()) > 1
    smooth = F.cross_entropy(of_labels, labels, label_smoothing=0.1) / 2
    torch.testing.assert_close(losses['loss_labels'], smooth)
    torch.testing.assert_close(losses['loss_teacher'], F.cross_entropy(of_teacher, taught) / 2)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in student.teachers[0].parameters())


def test_teacher_is_in_no_checkpoint_and_stays_as_it_is(student, teacher):
    student.train()
    student.loss(torch.randn(4, 3, 48, 64), samples())
    (inside,) = student.teachers
    assert not inside.training
    for name, value in teacher.state_dict().items():
        assert torch.equal(inside.state_dict()[name], value), name
    keys = {key.partition('.')[0] for key in student.state_dict()}
    assert keys == {'backbone', 'head'}
    assert {name for name, _ in student.named_children()} >= keys
    assert not any(
        parameter is p for p in inside.parameters() for parameter in student.parameters()
    )


def test_head_predicts_what_mmpretrains_does():
    torch.manual_seed(0)
    ours = DistilledHead(num_classes=5, in_channels=8)
    theirs = LeViTClsHead(num_classes=5, in_channels=8, distillation=True).eval()
    for value in ours.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2)
    theirs.load_state_dict(ours.state_dict())
    feats = (torch.randn(4, 8),)
    torch.testing.assert_close(ours.eval()(feats), theirs(feats))


def test_wrong_teachers_are_said(student, tmp_path):
    student.teacher_checkpoint = str(tmp_path / 'none.pth')
    with pytest.raises(InputError, match='none.pth does not exist'):
        student.init_weights()
    student.teachers = []
    with pytest.raises(InputError, match='reads its teacher in init_weights'):
        student.loss(torch.randn(4, 3, 48, 64), samples())
    other = deepcopy(TEACHER)
    other['head']['num_classes'] = 4
    student.teachers = [MODELS.build(other).eval()]
    with pytest.raises(InputError, match='model.teacher has 4 classes, but model.head 3'):
        student.loss(torch.randn(4, 3, 48, 64), samples())
