"""Which exceptions are a config's fault, and what to say about them in one sentence.

mmengine raises what Python raises: an exception is told by the frame that it comes from.
"""

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb
from types import FrameType

import mmengine.config.config as reading
import mmengine.registry.build_functions as building
from mmengine.config import Config

from castling_det.running.config_checks import paths

PACKAGE = Path(__file__).parents[1]
MAX_LENGTH = 200
MAX_PLACES = 3
READERS = ('_file2dict', '_is_lazy_import')
CONSTRUCTORS = {'__init__', 'get_instance', 'build_iter_from_epoch'}


def reading_error(error: Exception) -> str | None:
    """File, line and reason where a config file, or a base of it, cannot be read.

    Returns:
        str | None: None where the error comes from a module that the config imports.
    """
    if isinstance(error, ImportError) and error.__cause__ is not None:
        return f'custom_imports: {error.__cause__.__context__ or error.__cause__}'
    calls = _calls(error)
    files = [
        str(frame.f_locals['filename'])
        for frame, _ in calls
        if frame.f_code.co_filename == reading.__file__ and frame.f_code.co_name in READERS
    ]
    if not files:
        return None
    if isinstance(error, SyntaxError):
        line, message = error.lineno, error.msg
    else:
        lines = [line for frame, line in calls if frame.f_code.co_filename == files[-1]]
        line, message = (lines or [None])[-1], str(error).splitlines()[0]
    place = files[-1] + (f', line {line}' if line else '')
    return f'{place}: {type(error).__name__}: {message}'


def building_error(error: Exception) -> str | None:
    """What a config asks for and a registry cannot build: an unknown type, wrong arguments.

    Returns:
        str | None: None where the error comes from the code that was to be built.
    """
    frames = [frame for frame, _ in _calls(error)]
    builders = _builders(frames)
    if not builders:
        return None
    frame = builders[-1]
    inner = [frame.f_code.co_name for frame in frames[frames.index(frame) + 1 :]]
    if isinstance(error, KeyError):
        return _unknown_type(frame, error) if not inner else None
    if isinstance(error, TypeError) and CONSTRUCTORS.issuperset(inner):
        return _wrong_arguments(frame, error, raised_inside=bool(inner))
    return None


def place_in_config(error: Exception) -> str:
    """Where the dict that could not be built stands in the config that the run began with.

    Returns:
        str: As 'in CONFIG.py, model.backbone: '; the file alone where a builder has changed the
        dict beyond recognition, and empty where nothing was being built.
    """
    frames = [frame for frame, _ in _calls(error)]
    builders = _builders(frames)
    values = (value for frame in frames for value in frame.f_locals.values())
    cfg = next((each for each in values if isinstance(each, Config) and each.filename), None)
    if not builders or cfg is None:
        return ''
    paths = _paths_to(cfg, builders[-1].f_locals['cfg'])
    return f'in {cfg.filename}{", " if paths else ""}{" and ".join(paths)}: '


def is_ours(error: Exception) -> bool:
    """Whether a line of this package raised the error."""
    return _is_below(_calls(error)[-1][0].f_code.co_filename, PACKAGE)


def _builders(frames: list[FrameType]) -> list[FrameType]:
    return [frame for frame in frames if frame.f_code.co_filename == building.__file__]


def _paths_to(cfg: Config, built: dict) -> list[str]:
    """Dotted paths of the dicts with a type that have most in common with what was to be built.

    Nothing in them may differ; builders only add to a dict, as a detector adds its ``train_cfg``.
    """
    shared = {
        path: len(node)
        for path, node in paths(cfg)
        if isinstance(node, dict)
        and (node == built or 'type' in node)
        and all(key in built and built[key] == value for key, value in node.items())
    }
    most = max(shared.values(), default=0)
    return [path for path, number in shared.items() if number == most][:MAX_PLACES]


def _unknown_type(frame: FrameType, error: KeyError) -> str:
    wanted = _local(frame, 'obj_type', 'scheduler_type')
    if not isinstance(wanted, str):
        return ' '.join(str(error.args[0]).split())
    registry = frame.f_locals['registry']
    registries = [registry, registry.root, *registry.root.children.values()]
    names = sorted({name for each in registries for name in each.module_dict})
    return (
        f'type {wanted!r} is not registered as one of the {registry.root.name}s'
        f'{_nearest(wanted.rpartition(".")[2], names)}; one of your own needs its module in '
        'custom_imports'
    )


def _wrong_arguments(frame: FrameType, error: TypeError, raised_inside: bool) -> str | None:
    built = _local(frame, 'obj_cls', 'scheduler_cls', 'runner_cls')
    if built is None:
        return None
    accepted = _accepted_arguments(built)
    given = frame.f_locals['cfg']
    unknown = [name for name in given if name not in accepted and repr(name) in str(error)]
    if raised_inside and not unknown:
        return None
    name = getattr(built, '__name__', repr(built))
    in_config = ', '.join(f'{key}={value!r}' for key, value in given.items())
    in_config = f'dict({" ".join(in_config.split())})'
    if len(in_config) > MAX_LENGTH:
        in_config = in_config[: MAX_LENGTH - 3] + '...'
    if not unknown:
        reason = str(error).partition('() ')[2] or str(error)
        return f'{name} {reason}, in {in_config}'
    return f'{name} takes no argument {unknown[0]!r}, only {", ".join(accepted)}, in {in_config}'


def _accepted_arguments(built: Callable) -> list[str]:
    """Names of a constructor's arguments, and of its parents' as far as it passes others on."""
    accepted = {}
    for owner in inspect.getmro(built) if inspect.isclass(built) else (built,):
        if inspect.isclass(owner) and '__init__' not in vars(owner):
            continue
        parameters = inspect.signature(owner.__init__ if inspect.isclass(owner) else owner)
        kinds = {name: each.kind for name, each in parameters.parameters.items() if name != 'self'}
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        accepted |= {name: kind for name, kind in kinds.items() if kind not in variadic}
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            break
    return list(accepted)


def _nearest(wanted: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wanted, names, n=3)
    return f'; the nearest are {", ".join(close)}' if close else ''


def _local(frame: FrameType, *names: str):
    return next((frame.f_locals[name] for name in names if name in frame.f_locals), None)


def _calls(error: Exception) -> list[tuple[FrameType, int]]:
    return list(walk_tb(error.__traceback__))


def _is_below(file: str, folder: Path) -> bool:
    return Path(file).is_relative_to(folder)
