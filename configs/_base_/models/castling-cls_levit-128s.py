"""Castling-LeViT-128S with LeViT's two heads, one for the labels and one for a RegNetY-16GF; 1,000 classes.

The teacher is timm's, its weights (`regnety_160.deit_in1k`) are a local file: `model.teacher_checkpoint`.
"""

_base_ = './castling-cls_deit-tiny.py'

model = dict(
    type='DistilledClassifier',
    backbone=dict(
        _delete_=True,
        type='CastlingLeViT',
        arch='128s',
        attn=dict(type='CastlingAttention'),
        out_indices=(3,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='DistilledHead', in_channels=384),
    teacher=dict(type='TimmClassifier', model_name='regnety_160'),
    teacher_checkpoint='checkpoints/regnety_160-a5fe301d.pth',
)
