"""The finder that ends ``import mmcv._ext`` at our stand-ins where mmcv has no compiled ops.

``mmdet.models`` imports ``mmcv.ops``, whose modules load the extension ``mmcv._ext``. It exists
only in builds of mmcv that take 10 to 40 minutes. ``add_finder`` puts a finder for that one module
name behind all other finders: a compiled extension is found first and wins. ``mmcv_ops``, and
torchvision with it, is imported when the extension is, not before.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

from mmengine.logging import MMLogger

EXTENSION = 'mmcv._ext'


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` and nothing else, and fills it with the stand-ins."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for ``mmcv._ext``, None for any other module."""
        if fullname != EXTENSION:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=__file__)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the new module and say so in the log."""
        from .mmcv_ops import STAND_INS, op_without_stand_in

        for stand_in in STAND_INS:
            setattr(module, stand_in.__name__, stand_in)
        module.__getattr__ = op_without_stand_in
        MMLogger.get_current_instance().info(
            f'{EXTENSION} is not compiled: castling_det stands in for '
            f'{", ".join(stand_in.__name__ for stand_in in STAND_INS)}'
        )


def add_finder() -> None:
    """Let ``import mmcv._ext`` end at the stand-ins where mmcv has no compiled ops.

    To be called before ``mmcv.ops`` is imported; calling it again changes nothing.
    """
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())
