"""The same detector from trained weights."""

_base_ = './detection.py'

optim_wrapper = dict(_base_.layer_decay, _delete_=True)
