"""The demo segmentor trained without token mixing: what attention is worth on the demo data.

python tools/train.py configs/castling_mask2former/no-mixing-segformer_levit-nano_1xb16-2000i_shapes-seg-64x512.py

Status: not run.
"""

_base_ = './castling-segformer_levit-nano_1xb16-2000i_shapes-seg-64x512.py'

model = dict(backbone=dict(attn=dict(_delete_=True, type='NoMixing')))
