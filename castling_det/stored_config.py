"""The config that a checkpoint holds, read as data, since checkpoints need not be trusted."""

import ast
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_object_from_string, import_modules_from_strings

from castling_det.checkpoint import read_checkpoint, refuse_unsafe_checkpoints
from castling_det.errors import InputError

_NEEDED = ('custom_imports', 'default_scope', 'model', 'test_dataloader', 'test_pipeline')
_LIBRARIES = ('castling_det', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'torch.nn')


def stored_config(checkpoint: str | Path) -> Config:
    """What predicting needs of a config that mmengine wrote into a checkpoint as text.

    The text is never executed. mmengine would also import and call whatever a ``type`` names by its
    path, and mmcv evaluates that of an NMS: here they are names, or classes of this package, of the
    OpenMMLab libraries and of torch.nn, and ``custom_imports`` names modules of this package.

    Args:
        checkpoint (str | Path): Of a Runner, or of ``tools/castle.py``.

    Raises:
        InputError: If there is no config in it, or one that only its file may ask for.
    """
    refuse_unsafe_checkpoints()
    meta = read_checkpoint(checkpoint).get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(text, str):
        raise InputError(
            f'{checkpoint} holds no config, as weights to start from do: give a checkpoint of a '
            'training, or the config too (--config; Predictor(config, checkpoint))'
        )
    try:
        values = _values(text)
        if missing := {'model', 'test_dataloader'} - values.keys():
            raise ValueError(f'there is no {" and no ".join(sorted(missing))}')
        imports = dict(values.pop('custom_imports', {})).get('imports', [])
        for name in [imports] if isinstance(imports, str) else imports:
            if not re.fullmatch(r'castling_det(\.\w+)*', name):
                raise ValueError(f'custom_imports has {name!r}, which is not of castling_det')
            import_modules_from_strings(name)
    except (ValueError, TypeError, SyntaxError, ImportError, RecursionError, MemoryError) as error:
        raise InputError(
            f'the config in {checkpoint} is not read: {error}; if you trust its file, give that '
            'too, Predictor(config, checkpoint)'
        ) from error
    return Config(values, cfg_text=text, filename=str(checkpoint))


def _values(text: str) -> dict[str, Any]:
    """Assignments of what is needed; others are not looked at."""
    values = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) in _NEEDED:
            values[statement.targets[0].id] = _value(statement.value)
    if (scope := values.get('default_scope', 'mmdet')) not in _LIBRARIES:
        raise ValueError(f'default_scope is {scope!r}, none of the OpenMMLab libraries')
    return values


def _value(node: ast.expr) -> Any:
    """Literals, in which dictionaries may also be written as calls of ``dict``."""
    if isinstance(node, ast.List | ast.Tuple):
        values = map(_value, node.elts)
        return list(values) if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict':
        if len(node.args) == 1 and not node.keywords:  # mmengine's way to keys that are no names
            return _value(node.args[0])
        pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        if node.args or None in dict(pairs):
            raise ValueError(f'line {node.lineno} calls dict with more than names and values')
    elif isinstance(node, ast.Dict):
        pairs = zip(map(ast.literal_eval, node.keys), node.values, strict=True)
    else:
        return ast.literal_eval(node)
    found = {key: _value(value) for key, value in pairs}
    if not _is_known(found.get('type', '')):
        raise ValueError(f'line {node.lineno} has the type {found["type"]!r}')
    if 'trust_remote_code' in found:
        raise ValueError(f'line {node.lineno} has trust_remote_code')
    return found


def _is_known(kind: Any) -> bool:
    """Whether it is a name, which registries look up, or a class of one of the libraries."""
    if not isinstance(kind, str) or re.fullmatch(r'\w*', kind):
        return True
    below = tuple(f'{name}.' for name in _LIBRARIES)
    if not re.fullmatch(r'[\w.]+', kind) or not kind.startswith(below):
        return False
    named = get_object_from_string(kind)
    if named is None:  # of a registry: its scope and a name
        return kind.count('.') == 1
    return isinstance(named, type) and f'{named.__module__}.'.startswith(below)
