"""PaddlePaddle's files: read without executing what a pickle may hold, PicoDet's under our keys."""

import codecs
import re
from collections import OrderedDict
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

# All that a pickle of arrays calls; NumPy 1 and 2 name their core differently. None is a function
# written in Python, of which a pickle could replace the defaults.
_CALLS = {
    'collections.OrderedDict': OrderedDict,
    'builtins.tuple': tuple,
    '_codecs.encode': codecs.encode,
    'numpy.ndarray': np.ndarray,
    'numpy.dtype': np.dtype,
    'numpy.core.multiarray._reconstruct': np._core.multiarray._reconstruct,
    'numpy._core.multiarray._reconstruct': np._core.multiarray._reconstruct,
}

# Of `PicoHeadV2`: layers listed under a second name, and what it inherits and does not use.
_UNUSED = re.compile(
    r'head\.(head_(cls|reg)_list\.|p\d_feat\.scale_reg$|distribution_project\.project$)'
)
# One after the other. `top_down_blocks` begins with the coarsest level, ours with the finest.
_RENAMES = (
    (r'\._mean$', '.running_mean'),
    (r'\._variance$', '.running_var'),
    (r'\.se\.(conv\d)\.', r'.se.\1.conv.'),
    (r'^neck\.conv_t\.convs\.', 'neck.reduce.'),
    (r'^neck\.top_down_blocks\.0\.', 'neck.top_down.1.'),
    (r'^neck\.top_down_blocks\.1\.', 'neck.top_down.0.'),
    (r'^neck\.bottom_up_blocks\.', 'neck.bottom_up.'),
    (r'^neck\.downsamples\.', 'neck.downsample.'),
    (r'^neck\.first_top_conv\.', 'neck.halve_input.'),
    (r'^neck\.second_top_conv\.', 'neck.halve_output.'),
    (r'^(neck\..*)\.dw_conv\.', r'\1.depthwise_conv.'),
    (r'^(neck\..*)\.pw_conv\.', r'\1.pointwise_conv.'),
    (r'^(neck\..*)\.dwconv\.', r'\1.depthwise_conv.conv.'),
    (r'^(neck\..*)\.bn1\.', r'\1.depthwise_conv.bn.'),
    (r'^(neck\..*)\.pwconv\.', r'\1.pointwise_conv.conv.'),
    (r'^(neck\..*)\.bn2\.', r'\1.pointwise_conv.bn.'),
    (r'^head\.conv_feat\.cls_conv_dw(\d)\.(\d)\.', r'bbox_head.levels.\1.tower.\2.depthwise_conv.'),
    (r'^head\.conv_feat\.cls_conv_pw(\d)\.(\d)\.', r'bbox_head.levels.\1.tower.\2.pointwise_conv.'),
    (r'^head\.conv_feat\.se\.(\d)\.fc\.', r'bbox_head.levels.\1.gate.1.'),
    (r'^head\.conv_feat\.se\.(\d)\.conv\.', r'bbox_head.levels.\1.mix.'),
    (r'^head\.head_(cls|reg)(\d)\.', r'bbox_head.levels.\2.\1.'),
    (r'^head\.cls_align\.(\d)\.dwconv\.', r'bbox_head.levels.\1.align.0.conv.'),
    (r'^head\.cls_align\.(\d)\.bn1\.', r'bbox_head.levels.\1.align.0.bn.'),
    (r'^head\.cls_align\.(\d)\.pwconv\.', r'bbox_head.levels.\1.align.1.conv.'),
    (r'^head\.cls_align\.(\d)\.bn2\.', r'bbox_head.levels.\1.align.1.bn.'),
    (r'^(bbox_head\..*)\.norm\.', r'\1.bn.'),
)


class ArrayUnpickler(Unpickler):
    """An unpickler that builds arrays and plain containers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle asks for by name.

        Raises:
            UnpicklingError: If it is anything else, in the words of ``torch.load``.
        """
        if (called := f'{module}.{name}') not in _CALLS:
            raise UnpicklingError(f'Unsupported global: GLOBAL {called}')
        return _CALLS[called]


def read_pdparams(path: Path, map_location: str = 'cpu') -> dict[str, Tensor]:
    """Read a ``.pdparams`` file, which is a pickle of a dict of arrays.

    Args:
        path (Path): Written by ``paddle.save``; as PaddleDetection saves it, the average of the
            weights where the training made one.
        map_location (str): Device of the tensors. Defaults to 'cpu'.

    Returns:
        dict[str, Tensor]: Keys of PicoDet (2022.03) and its LCNet as ours have them; others as they
        are. Convolutions have the same axes in Paddle; weights of linear layers have not.

    Raises:
        UnpicklingError: If it is not read as data, or holds no arrays of floats.
    """
    with path.open('rb') as file:
        content = ArrayUnpickler(file, encoding='latin1').load()
    if not isinstance(content, dict):
        raise UnpicklingError(f'it holds a {type(content).__name__}, not a dict of arrays')
    weights = {}
    for key, value in content.items():
        array = value[1] if isinstance(value, tuple) else value  # or with the name of its parameter
        if not isinstance(array, np.ndarray) or _UNUSED.match(key):
            continue
        if array.dtype.kind != 'f':
            raise UnpicklingError(f'{key} is of {array.dtype}, which is no type of floats')
        weights[_our_key(key)] = torch.tensor(array, device=map_location)
    return weights


def _our_key(key: str) -> str:
    for theirs, ours in _RENAMES:
        key = re.sub(theirs, ours, key)
    return key
