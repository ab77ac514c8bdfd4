"""The demo segmentor trained without token mixing: what attention is worth on the demo data.

python tools/train.py configs/castling_seg/no-mixing-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py

Measured here: mIoU 55.1900 (seed 0, one CPU thread; see docs/studies/token-mixing.md).
"""

_base_ = './castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='NoMixing')))
