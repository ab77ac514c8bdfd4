"""What the tests share: data sets that only some machines have, the GPU marker, tools to call."""

import functools
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

# On shared cores a parallel region of torch waits longer than the tests' small tensors take.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from yapf.yapflib.yapf_api import FormatCode

import castling_det  # noqa: F401  mmcv.ops can be imported from here on, compiled or not

DATA_VARIABLE = 'CASTLING_DET_DATA'
TOOLS = Path(__file__).parents[1] / 'tools'
LONGEST = (
    'test_tools',
    'test_export/test_onnx_file',
    'test_docs',
    'test_export/test_box_decoding',
    'test_configs',
    'test_hooks/test_resume_hook',
    'test_timm_configs',
    'test_engine/test_distributed',
    'test_analysis/test_complexity',
    'test_analysis/test_latency',
    'test_detection/test_peers',
    'test_export/test_vit_file',
    'test_python_style',
    'test_export/test_recording',
    'test_export/test_program',
    'test_mvit_configs',
    'test_packaging',
    'test_export/test_classifier_graph',
    'test_engine/test_test_time_augmentation',
)


@pytest.fixture(scope='session')
def call() -> Callable[..., str]:
    """Run a tool without a new process, which saves the imports, and return what it printed."""

    def call(tool: str, *words: object) -> str:
        spec = spec_from_file_location(f'tool_{tool}', TOOLS / f'{tool}.py')
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
            patch.setattr(sys, 'argv', [tool, *map(str, words)])
            patch.setenv('LOCAL_RANK', '0')
            try:
                module.main()
            except SystemExit as left:
                left.printed = printed.getvalue()
                raise
            finally:
                for manager in (DefaultScope, MessageHub, MMLogger, *with_subclasses(Visualizer)):
                    manager._instance_dict.clear()  # mmengine's globals, found by name
        return printed.getvalue()

    return call


def with_subclasses(parent: type) -> list[type]:
    return sum(map(with_subclasses, parent.__subclasses__()), [parent])


@pytest.fixture(scope='session')
def refusal(call: Callable[..., str]) -> Callable[..., str]:
    """The sentence with which a tool leaves."""

    def refusal(tool: str, *words: object) -> str:
        with pytest.raises(SystemExit) as left:
            call(tool, *words)
        assert '\n' not in left.value.code
        return left.value.code

    return refusal


@pytest.fixture(scope='session')
def labelled_images() -> Callable[..., dict]:
    """Two images as they leave a pipeline of mmseg, with label maps of every class and of none."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def labelled_images(size: tuple[int, int], num_classes: int) -> dict:
        generator, samples = torch.Generator().manual_seed(0), []
        for _ in range(2):
            sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size))
            labels = torch.randint(0, num_classes, (1, *size), generator=generator)
            labels[:, :4] = 255
            sample.gt_sem_seg = PixelData(data=labels)
            samples.append(sample)
        images = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
        return dict(inputs=list(images), data_samples=samples)

    return labelled_images


@pytest.fixture(autouse=True, scope='session')
def quick_runners() -> Iterator[None]:
    """mmengine asks compilers and git for versions when it builds a Runner, saves a checkpoint.

    And it formats the same config for each log, backend and checkpoint anew.
    """
    format_once = functools.cache(lambda text, style: FormatCode(text, style_config=dict(style)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.setattr('mmengine.runner.runner.get_git_hash', str)
        patch.setattr(
            'yapf.yapflib.yapf_api.FormatCode',  # imported anew at each call
            lambda text, style_config: format_once(text, tuple(style_config.items())),
        )
        yield


@pytest.fixture
def weights_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of sizes alone: to draw its weights takes most of the time of a large model."""
    for name in ('normal_', 'uniform_', 'erfinv_'):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *args, **options: self.zero_())


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> Path:
    """Root of the data sets, for a test marked with the folders of it that the test reads.

    The test skips where ``CASTLING_DET_DATA`` is not set, and fails where it is set and a folder is
    missing.
    """
    if DATA_VARIABLE not in os.environ:
        pytest.skip(f'{DATA_VARIABLE} is not set')
    root = Path(os.environ[DATA_VARIABLE])
    for folder in ('', *request.node.get_closest_marker('data').args):
        if not (root / folder).is_dir():
            pytest.fail(
                f'{DATA_VARIABLE} is set, but {root / folder} does not exist: unset it to skip the '
                'tests of real data'
            )
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that two processes end together."""
    places = {f'tests/{name}.py': place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition('::')[0], len(LONGEST)))


def pytest_collection_finish() -> None:
    """What the imports made stays: no later collection of garbage goes through it again."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Drop what the imports above printed: with xdist it would follow pytest's closing line."""
    config.pluginmanager.getplugin('capturemanager').read_global_capture()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests marked ``gpu`` where there is none."""
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('no CUDA device')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Turn a skipped ``data`` test into a failed one where the data is there."""
    report = yield
    if report.skipped and item.get_closest_marker('data') and DATA_VARIABLE in os.environ:
        report.outcome = 'failed'
        report.longrepr = f'skipped although {DATA_VARIABLE} is set: {report.longrepr}'
    return report
