"""What is installed: the wheel's content, its requirements, and configs found by package name."""

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import castling_det

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
SOURCES = ['setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'castling_det', 'configs', 'tools']


def run(*command: str | Path, **options) -> str:
    """Run a command that has to succeed; its output, for the report where it does not."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources: old build output cannot slip in."""
    folder = tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree(ROOT / name, folder / 'sources' / name, symlinks=True, ignore=ignored)
        else:
            (folder / 'sources').mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / 'sources')
    offline = ['--no-deps', '--no-build-isolation', '--no-index']
    run(sys.executable, '-m', 'pip', 'wheel', *offline, '-w', folder, folder / 'sources')
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith('/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope='module')
def leaf() -> str:
    """A detector's config, named as users do after ``castling_det::``."""
    return sorted(CONFIGS.glob('castling_picodet/*.py'))[0].relative_to(CONFIGS).as_posix()


@pytest.fixture
def child(leaf, tmp_path) -> Path:
    """A config of somebody else's that starts from one of ours."""
    path = tmp_path / 'child.py'
    path.write_text(f"_base_ = 'castling_det::{leaf}'\n")
    return path


def test_wheel_holds_package_configs_and_tools(wheel):
    def shipped(folder: str, into: str, suffixes: tuple[str, ...]) -> set[str]:
        files = [path for path in (ROOT / folder).rglob('*') if path.suffix in suffixes]
        names = (path.relative_to(ROOT).as_posix() for path in files)
        return {into + name for name in names if not name.startswith('tools/studies/')}

    with zipfile.ZipFile(wheel) as archive:
        content = {name for name in archive.namelist() if '.dist-info/' not in name}
    assert content == {
        'castling_det/.mim/model-index.yml',
        *shipped('castling_det', '', ('.py',)),
        *shipped('configs', 'castling_det/.mim/', ('.py', '.yml', '.md')),
        *shipped('tools', 'castling_det/.mim/', ('.py', '.sh')),
    }


def test_version_is_the_packages(metadata):
    assert metadata['Version'] == castling_det.__version__


def test_other_pythons_are_refused(metadata):
    allowed = SpecifierSet(metadata['Requires-Python'])
    assert list(allowed.filter(f'3.{minor}.9' for minor in range(9, 16))) == [
        '3.11.9',
        '3.12.9',
        '3.13.9',
    ]


def test_every_requirement_has_a_pin_that_satisfies_it(metadata):
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pinned = (line.split('==') for line in lines if not line.startswith('#'))
    pins = {canonicalize_name(name): version for name, version in pinned}
    required = [Requirement(text) for text in metadata.get_all('Requires-Dist')]
    assert required
    for requirement in required:
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), requirement


def test_installed_packages_agree():
    run(sys.executable, '-m', 'pip', 'check')


@pytest.mark.skipif(sys.platform != 'linux', reason='ldd reads Linux binaries')
def test_cv2_needs_no_libgl():
    """Both OpenCV wheels write the folder cv2; the headless one has to be the last installed."""
    (binary,) = Path(find_spec('cv2').origin).parent.glob('cv2*.so')
    assert 'libGL' not in run('ldd', binary)


def test_config_is_found_by_package_name_in_this_installation(child, leaf):
    expected = Config.fromfile(CONFIGS / leaf)
    assert get_config(f'castling_det::{leaf}').to_dict() == expected.to_dict()
    assert Config.fromfile(child).to_dict() == expected.to_dict()


def test_config_is_found_by_package_name_in_an_installed_wheel(wheel, child, leaf, tmp_path):
    """And so are the bases of a config that the installed command writes."""
    site, words = tmp_path / 'site', ['--model', 'levit-nano', '--out', tmp_path / 'mine.py']
    environment = os.environ | {'PYTHONPATH': str(site)}
    run(sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '-t', site, wheel)
    for name in ('a/1.jpg', 'a/2.jpg', 'b/1.jpg', 'b/2.jpg'):
        (tmp_path / 'data' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'data' / name).touch()
    command = site / 'bin' / 'castling-det'
    run(command, 'new-config', 'data', *words, cwd=tmp_path, env=environment)
    script = (
        'import castling_det\n'
        'from mmengine.config import Config\n'
        'from mmengine.hub import get_config\n'
        f'config = get_config("castling_det::{leaf}")\n'
        f'assert config.filename.startswith({str(site)!r})\n'
        f'assert Config.fromfile({str(child)!r}).to_dict() == config.to_dict()\n'
        'assert Config.fromfile("mine.py").model.head.num_classes == 2\n'
    )
    run(sys.executable, '-c', script, cwd=tmp_path, env=environment)


def test_model_index_lists_every_metafile():
    index = Config.fromfile(ROOT / 'castling_det' / '.mim' / 'model-index.yml')
    assert index.Import == sorted(
        path.relative_to(ROOT).as_posix() for path in CONFIGS.glob('*/metafile.yml')
    )
