"""The finder of single modules; that of mmcv's extension is tested beside the stand-ins."""

import importlib.util
import sys

import pytest

from castling_det.compat.finders import LoaderFinder


def test_type_error_of_mmpretrain_is_an_import_error(tmp_path):
    """mmdet and mmseg do without mmpretrain then."""
    models = tmp_path / 'models'
    models.mkdir()
    (models / '__init__.py').write_text('answer = 42\n')
    spec = LoaderFinder().find_spec('mmpretrain.models', [str(tmp_path)])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.answer == 42

    (models / '__init__.py').write_text('class BertPreTrainedModel(None): ...\n')
    with pytest.raises(ImportError, match="pip install 'transformers>=4.56,<5'"):
        spec.loader.exec_module(module)


def test_other_modules_are_left_to_others():
    assert sum(isinstance(finder, LoaderFinder) for finder in sys.meta_path) == 1
    assert LoaderFinder().find_spec('mmpretrain', None) is None
    assert LoaderFinder().find_spec('mmpretrain.models', []) is None
