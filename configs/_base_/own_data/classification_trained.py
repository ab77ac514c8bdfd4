"""The same classifier from trained weights; its rates are those of the other two, not tuned."""

_base_ = './classification.py'

optim_wrapper = dict(_base_.layer_decay, _delete_=True)
