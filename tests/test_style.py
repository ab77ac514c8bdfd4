"""The rules that can be read off the source: names and depth of configs, imports, checkpoints."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_CONFIG_DEPTH = 4  # twin, config, size of a data set, data set
LEAF_NAME = re.compile(
    r"""(?P<algorithm>[a-z0-9-]+)
        _(?P<backbone>[a-z0-9-]+)
        _\d+xb\d+-(?P<schedule>([a-z0-9]+-)*\d+[eki])
        _(?P<data>[a-z0-9-]+)-\d+x\d+""",
    re.VERBOSE,
)


def python_files(*folders: str) -> list[Path]:
    """Python files of folders of the repository, not following links."""
    return sorted(path for folder in folders for path in (ROOT / folder).glob('**/*.py'))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), str(path)))


def bases(config: Path) -> list[str]:
    """The ``_base_`` entries of a config file."""
    for node in nodes(config):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '_base_':
            value = ast.literal_eval(node.value)
            return [value] if isinstance(value, str) else value
    return []


def depth(config: Path) -> int:
    """Number of files on the longest way down; a file of another package counts as one."""
    below = (1 if '::' in base else depth(config.parent / base) for base in bases(config))
    return 1 + max(below, default=0)


def module_name(path: Path) -> str:
    """Of a file of the package, as it is imported."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, each with the name that is taken out of it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module_name(path).split('.') if node.level else []
            above = above[: len(above) - node.level + (path.stem == '__init__')]
            base = '.'.join([*above, *filter(None, [node.module])])
            found |= {f'{base}.{alias.name}' for alias in node.names}
    return found


PACKAGE = {module_name(path): path for path in python_files('castling_det')}
CONFIGS = python_files('configs')
LEAVES = [path for path in CONFIGS if '_base_' not in path.parts]


def test_there_are_files_to_check():
    assert PACKAGE and LEAVES


def test_imports_have_no_circle():
    """Of files of the package; importing one of them runs the package's own first, which all do."""
    graph = {}
    for name, path in PACKAGE.items():
        needed = (n if n in PACKAGE else n.rpartition('.')[0] for n in imports(path))
        graph[name] = {n for n in needed if n in PACKAGE} - {name, 'castling_det'}
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_package_imports_neither_tools_nor_tests():
    below = {path.stem for path in python_files('tools', 'tests')} | {'tools', 'tests'}
    for name, path in PACKAGE.items():
        assert not {each.partition('.')[0] for each in imports(path)} & below, name


def test_checkpoints_are_loaded_as_weights_only():
    loads = [
        (path, call)
        for path in python_files('castling_det', 'tools')
        for call in nodes(path)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == 'torch.load'
    ]
    for path, call in loads:
        assert 'weights_only=True' in map(ast.unparse, call.keywords), f'{path}:{call.lineno}'


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda path: path.stem)
def test_config_name_and_depth(leaf):
    assert LEAF_NAME.fullmatch(leaf.stem), 'see the naming rule in configs/README.md'
    assert depth(leaf) <= MAX_CONFIG_DEPTH
