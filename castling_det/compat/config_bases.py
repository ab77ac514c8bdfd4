"""What lets a config say ``_base_ = 'castling_det::castling_picodet/...'``."""

import re

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

MOVED = re.compile('castling_det::castling_mask2former/([a-z-]*segformer_)')  # its old folder


def know_our_configs() -> None:
    """Tell mmengine where ``castling_det::`` and ``mmseg::`` bases are; a second call does nothing.

    mmengine knows its own list of packages only, in which mmseg has the name of a distribution that
    is not installed. It also marks every type of such a base with the package's own registry scope;
    our configs are written in the scope of the library that runs them (``default_scope``), and
    this package has no other, so the mark is left out.
    """
    if 'castling_det' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE.update(castling_det='castling_det', mmseg='mmseg')
    find_base = Config._get_cfg_path

    def find_base_without_our_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = find_base(MOVED.sub(r'castling_det::castling_seg/\1', cfg_path), filename)
        return path, None if scope == 'castling_det' else scope

    Config._get_cfg_path = staticmethod(find_base_without_our_scope)
