"""The rules of style that can be read off the source: see CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
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


def places(found: Iterator[tuple[Path, ast.AST]]) -> list[str]:
    return [f'{path.relative_to(ROOT)}:{node.lineno}' for path, node in found]


def calls(path: Path, name: str) -> Iterator[ast.Call]:
    return (n for n in nodes(path) if isinstance(n, ast.Call) and ast.unparse(n.func) == name)


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


PACKAGE = python_files('castling_det')
EVERYTHING = python_files('castling_det', 'configs', 'tools', 'tests')
CONFIGS = python_files('configs')
LEAVES = [path for path in CONFIGS if '_base_' not in path.parts]


def test_there_are_files_to_check():
    assert PACKAGE and LEAVES


def test_package_does_not_print():
    assert not places((path, call) for path in PACKAGE for call in calls(path, 'print'))


def test_package_does_not_replace_what_it_cannot_import():
    """A handler around an import may only raise: no substitute, no silence."""
    assert not places(
        (path, node)
        for path in PACKAGE
        for node in nodes(path)
        if isinstance(node, ast.Try)
        and any(isinstance(child, ast.Import | ast.ImportFrom) for child in node.body)
        and not all(isinstance(handler.body[-1], ast.Raise) for handler in node.handlers)
    )


def test_package_has_no_keyword_pass_through():
    assert not places(
        (path, node)
        for path in PACKAGE
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef) and node.args.kwarg
    )


def test_search_path_is_left_alone():
    assert not places(
        (path, node)
        for path in EVERYTHING
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == 'sys.path'
    )


def test_no_deploy_argument():
    assert not places(
        (path, node)
        for path in python_files('castling_det', 'configs', 'tools')
        for node in nodes(path)
        if isinstance(node, ast.keyword | ast.arg) and node.arg == 'deploy'
    )


def test_checkpoints_are_loaded_as_weights_only():
    def is_safe(call: ast.Call) -> bool:
        return 'weights_only=True' in [ast.unparse(keyword) for keyword in call.keywords]

    assert not places(
        (path, call)
        for path in python_files('castling_det', 'tools')
        for call in calls(path, 'torch.load')
        if not is_safe(call)
    )


def test_no_file_is_named_after_nothing():
    vague = {'utils', 'util', 'misc', 'common', 'helpers', 'helper'}
    assert not [path for path in EVERYTHING if path.stem in vague]


def test_no_base_is_reached_by_climbing():
    assert not [path for path in CONFIGS if any('../../' in base for base in bases(path))]


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda path: path.stem)
def test_config_name_and_depth(leaf):
    assert LEAF_NAME.fullmatch(leaf.stem), 'see the naming rule in configs/README.md'
    assert depth(leaf) <= MAX_CONFIG_DEPTH
