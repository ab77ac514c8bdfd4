"""The same segmentor from trained weights."""

_base_ = './segmentation.py'

optim_wrapper = dict(_base_.layer_decay, _delete_=True)
