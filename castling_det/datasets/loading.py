"""Loading that names the image it cannot read: importing this module (it needs mmcv) registers it.

Grey, 16-bit, RGBA, CMYK and EXIF-turned images come out of mmcv's loading as three 8-bit channels
the right way up; what stays to be done is a word on the ones that are no images.
"""

import logging

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from torch.utils.data import get_worker_info

from castling_det.errors import InputError


@TRANSFORMS.register_module()
class LoadReadableImage(LoadImageFromFile):
    """``LoadImageFromFile`` for images that may be truncated, empty, missing or none at all.

    The parent raises various errors for these, some without a file name, and its ``ignore_empty``
    does not cover what OpenCV cannot decode. The parent stays the loading of test pipelines: there
    a skipped image would falsify the metrics, so mmengine refuses it, and mmdet's inferencer looks
    for the parent's name.

    Args:
        on_error (str): 'raise', or 'skip': the data set then draws another image at random, and an
            error is logged with the number of files skipped so far. A worker of the data loader
            counts for itself, and names each file once. Defaults to 'raise'.
        color_type (str): As the parent's; 'color_ignore_orientation' leaves an image as it is
            stored, whatever EXIF says. Defaults to 'color'.

    Raises:
        InputError: If ``on_error`` is neither, or if it is 'raise' and an image cannot be read.
    """

    def __init__(self, on_error: str = 'raise', color_type: str = 'color') -> None:
        if on_error not in ('raise', 'skip'):
            raise InputError(f"LoadReadableImage: on_error is 'raise' or 'skip', not {on_error!r}")
        super().__init__(color_type=color_type)
        self.on_error = on_error
        self.skipped: set[str] = set()

    def transform(self, results: dict) -> dict | None:
        """Load ``results['img_path']``; None where it is skipped."""
        try:
            return super().transform(results)
        except (AssertionError, OSError, cv2.error) as error:  # the parent asserts what it decoded
            filename = results['img_path']
            if self.on_error == 'raise':
                raise InputError(
                    f'{filename} is missing, damaged or not an image: mend it, or take it out of '
                    "the annotations, or train without it by LoadReadableImage(on_error='skip')"
                ) from error
            self._report(filename)
            return None

    def _report(self, filename: str) -> None:
        if filename in self.skipped:
            return
        self.skipped.add(filename)
        worker = get_worker_info()
        print_log(
            f'{filename} is missing, damaged or not an image, and is skipped '
            f'({len(self.skipped)} so far by data worker {worker.id if worker else 0})',
            logger='current',
            level=logging.ERROR,  # the one level that mmengine shows from every process
        )
