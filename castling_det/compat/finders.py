"""Finders that end two imports of the mm packages well where they would fail, and mend a slow op.

``mmdet.models`` imports ``mmcv.ops``, whose modules load the extension ``mmcv._ext``. It exists
only in builds of mmcv that take 10 to 40 minutes; where there is none, ``mmcv_ops`` stands in. It,
and torchvision with it, is imported when the extension is, not before.

mmdet and mmseg do without ``mmpretrain.models`` where its import raises ImportError; beside
transformers 5 it raises TypeError, which would be the end of theirs.

mmcv's multi-scale deformable attention has no compiled op for a CPU, and its PyTorch form is slow.
"""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

from mmengine.logging import MMLogger

EXTENSION = 'mmcv._ext'


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext`` and nothing else, and fills it with the stand-ins."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for ``mmcv._ext``, None for any other module."""
        if fullname != EXTENSION:
            return None
        return ModuleSpec(fullname, self, origin=__file__)

    def exec_module(self, module: ModuleType) -> None:
        """Fill the new module; the use of an operator that is missing there is an error."""
        from .mmcv_ops import STAND_INS, op_without_stand_in

        for stand_in in STAND_INS:
            setattr(module, stand_in.__name__, stand_in)
        module.__getattr__ = op_without_stand_in
        MMLogger.get_current_instance().debug(
            f'{EXTENSION} is not compiled: castling_det stands in for '
            f'{", ".join(stand_in.__name__ for stand_in in STAND_INS)}'
        )


class MmpretrainLoader(SourceFileLoader):
    """Loads a module whose TypeError becomes the ImportError that it is."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module.

        Raises:
            ImportError: It raised TypeError.
        """
        try:
            super().exec_module(module)
        except TypeError as error:
            raise ImportError(
                f'{module.__name__} cannot be imported beside this version of transformers: '
                "pip install 'transformers>=4.56,<5'",
                name=module.__name__,
            ) from error


class DeformableAttentionLoader(SourceFileLoader):
    """Loads a module whose pure PyTorch function becomes ours; mmcv's is its ``__wrapped__``."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module and replace the function."""
        from .deformable_attention import deformable_attention

        super().exec_module(module)
        deformable_attention.__wrapped__ = module.multi_scale_deformable_attn_pytorch
        module.multi_scale_deformable_attn_pytorch = deformable_attention


LOADERS = {
    'mmpretrain.models': MmpretrainLoader,
    'mmcv.ops.multi_scale_deform_attn': DeformableAttentionLoader,
}


class LoaderFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of ``LOADERS`` and nothing else, to be loaded by these."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a module of ``LOADERS``, None for any other module."""
        if fullname not in LOADERS:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None:
            spec.loader = LOADERS[fullname](fullname, spec.origin)
        return spec


def add_finders() -> None:
    """Put the stand-ins behind all finders, so that a compiled mmcv wins, the loaders before them.

    To be called before ``mmdet`` or ``mmcv.ops`` is imported; calling it again changes nothing.
    """
    if not any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder())
        sys.meta_path.insert(0, LoaderFinder())
