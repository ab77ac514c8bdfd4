"""The tables of the configs' READMEs, made from the configs and the metafiles beside them.

A README keeps each table between two markers: ``<!-- table DATA -->`` opens the table of its
folder's configs on one data set, ``<!-- table all -->`` that of all configs below it,
``<!-- end -->`` closes both.

Counting the models takes minutes. What was counted stands in ``complexity.json`` beside the first
README, for each config with a digest of its model and input size.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import load
from tables import fill_tables

from castling_det.analysis.complexity import count_config
from castling_det.configs import task_of
from castling_det.errors import InputError

COUNTS = 'complexity.json'
_NAME = re.compile(
    r'(?P<algorithm>[^_]+)_(?P<backbone>[^_]+)_[^_]+_(?P<data>[^_]+)-(?P<height>\d+)x(?P<width>\d+)'
)


@dataclass(frozen=True)
class Result:
    """What a metafile knows of one config.

    Attributes:
        metrics (dict[str, float]): In the metafile's order, the first one being the main one.
        status (str): Markdown that says whether they were measured here or quoted.
    """

    metrics: dict[str, float]
    status: str


class Leaf:
    """A config that can be trained, as the tables see it; its model is built when it is counted.

    Args:
        path (Path): The config file.
        result (Result): Its result; one without metrics if it was not run.
        counted (list[str], optional): Digest, params and MACs as they were counted before.

    Raises:
        InputError: If the file's name does not follow ``configs/README.md``.
    """

    def __init__(self, path: Path, result: Result, counted: list[str] | None) -> None:
        name = _NAME.fullmatch(path.stem)
        if name is None:
            raise InputError(f'{path}: the name does not follow the rule of configs/README.md')
        self.path, self.result, self._counted = path, result, counted
        self.algorithm, self.backbone, self.data = name['algorithm'], name['backbone'], name['data']
        self.shape = int(name['height']), int(name['width'])

    @property
    def order(self) -> tuple:
        """A config stands above its softmax twin, small inputs above large ones."""
        return self.path.parent, self.data, self.backbone, self.shape, self.algorithm

    @cached_property
    def config(self) -> Config:
        return Config.fromfile(self.path)

    @cached_property
    def counted(self) -> list[str]:
        """Digest; millions of params and 1e9 MACs of the inference form at the name's size."""
        model = [self.config.default_scope, self.config.model.to_dict(), self.shape]
        text = json.dumps(model, sort_keys=True, default=repr)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if self._counted and self._counted[0] == digest:
            return self._counted
        complexity = count_config(self.config, self.shape)
        return [digest, f'{complexity.params / 1e6:.2f}', f'{complexity.macs / 1e9:.3f}']

    @property
    def counts(self) -> list[str]:
        return self.counted[1:]


def stale_files(configs: Path, recount: bool) -> dict[Path, str]:
    """READMEs whose tables are not what configs and metafiles say, and the counts, if they are not.

    Args:
        configs (Path): Folder with a README.md, and folders with leaves, README.md, metafile.yml.
        recount (bool): Count every model; otherwise those alone whose configs have changed.

    Returns:
        dict[Path, str]: The text that each of them should have.

    Raises:
        InputError: If a table names a data set without configs, or has no end; for a metafile that
            gives a result without its origin, or of a config that does not exist.
    """
    store, leaves = configs / COUNTS, []
    counted = json.loads(store.read_text()) if store.is_file() and not recount else {}
    for folder in sorted({path.parent for path in configs.glob('[!_]*/*.py')}):
        results = _read_results(folder / 'metafile.yml')
        for path in folder.glob('*.py'):
            result = results.pop(path.name, Result({}, '*not run*'))
            leaves.append(Leaf(path, result, counted.get(path.stem)))
        if results:
            raise InputError(f'{folder}/metafile.yml: no such config: {", ".join(results)}')
    leaves.sort(key=lambda leaf: leaf.order)
    stale = {}
    for readme in sorted(configs.glob('**/README.md')):
        text = readme.read_text()
        fresh = _with_fresh_tables(readme, text, leaves)
        if fresh != text:
            stale[readme] = fresh
    lines = (f'{json.dumps(leaf.path.stem)}: {json.dumps(leaf.counted)}' for leaf in leaves)
    text = '{\n' + ',\n'.join(lines) + '\n}\n'
    if not store.is_file() or store.read_text() != text:
        stale[store] = text
    return stale


def _read_results(metafile: Path) -> dict[str, Result]:
    """Results by the config's file name; none where there is no metafile."""
    if not metafile.is_file():
        return {}
    results = {}
    for model in load(metafile)['Models']:
        metrics = {}
        for result in model.get('Results', []):
            metrics |= result['Metrics']
        if metrics:
            status = _status(model.get('Metadata', {}), f'{metafile}: {model["Name"]}')
            results[Path(model['Config']).name] = Result(metrics, status)
    return results


def _status(metadata: dict, model: str) -> str:
    if 'Source' in metadata:
        return f'*quoted*: {metadata["Source"]}'
    missing = [key for key in ('Seed', 'Commit', 'Hardware') if key not in metadata]
    if missing:
        raise InputError(
            f'{model} has Results, but its Metadata lack {", ".join(missing)} '
            '(measured here) or Source (quoted)'
        )
    if not isinstance(metadata['Commit'], str):
        raise InputError(f'{model}: put the Commit in quotes, YAML reads it as a number')
    return f'*measured here*: seed {metadata["Seed"]}, commit {metadata["Commit"]}'


def _with_fresh_tables(readme: Path, text: str, leaves: list[Leaf]) -> str:
    below = [leaf for leaf in leaves if readme.parent in leaf.path.parents]

    def rows(name: str) -> list[list[str]]:
        if name == 'all':
            return _overview(below, readme.parent)
        return _results([leaf for leaf in below if leaf.data == name])

    try:
        return fill_tables(text, rows)
    except InputError as error:
        raise InputError(f'{readme}: {error}') from error


def _overview(leaves: list[Leaf], folder: Path) -> list[list[str]]:
    """Header and rows: every config with its main metric."""
    rows = [['config', 'task', 'params M', 'MACs G', 'metric', 'status']]
    for leaf in leaves:
        link = f'[{leaf.path.stem}]({leaf.path.relative_to(folder).as_posix()})'
        metric = next((f'{key} {value}' for key, value in leaf.result.metrics.items()), '')
        rows.append([link, task_of(leaf.config), *leaf.counts, metric, leaf.result.status])
    return rows


def _results(leaves: list[Leaf]) -> list[list[str]]:
    """Header and rows: the configs of one data set with all their metrics."""
    metrics = list(dict.fromkeys(key for leaf in leaves for key in leaf.result.metrics))
    rows = [['config', 'input', 'params M', 'MACs G', *metrics, 'status']]
    for leaf in leaves:
        link = f'[{leaf.algorithm}_{leaf.backbone}]({leaf.path.name})'
        size = 'x'.join(map(str, leaf.shape))
        values = [str(leaf.result.metrics.get(key, '')) for key in metrics]
        rows.append([link, size, *leaf.counts, *values, leaf.result.status])
    return rows
