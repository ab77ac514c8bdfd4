"""Packaging of castling_det: the only place that names what it depends on.

``constraints.txt`` pins the versions that were proved to work together.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

DEPENDENCIES = [
    'torch>=2.6',  # the first whose weights_only loader takes named replacements
    'torchvision>=0.21',  # the one of torch 2.6: each torch has one, out of the same index
    'timm>=1.0',
    'numpy>=2.0',
    'matplotlib>=3.8',
    'onedl-mmengine>=0.10.12',
    'onedl-mmcv>=2.3.6',
    'onedl-mmdetection>=3.5.1',
    'onedl-mmsegmentation>=1.4.2',
    'onedl-mmpretrain>=1.3.6',
    # What mmpretrain imports and does not require.
    'einops>=0.8',
    'importlib-metadata>=8.0',
    'mat4py>=0.6',
    'modelindex>=0.0.2',
    'opencv-python-headless>=4.10',
    'pycocotools>=2.0.8',
]

EXTRAS = {
    'export': ['onnx>=1.18', 'onnxruntime>=1.22', 'onnxscript>=0.5'],
    'tensorboard': ['tensorboard>=2.15'],  # of --log-to tensorboard
    'dev': [
        'accelerate>=1.10',  # of transformers' Trainer
        'pdoc>=16.0',  # of `make docs`
        'pre-commit>=4.0',
        'pytest>=8.4',
        'pytest-xdist>=3.6',
        'ruff>=0.12',
        'setuptools>=77',
        'tensorboard>=2.15',
        'transformers>=4.56,<5',  # mmpretrain cannot be imported beside transformers 5
    ],
}


def read_version() -> str:
    """Read the version without importing the package, which would need torch."""
    source = (ROOT / 'castling_det' / '__init__.py').read_text()
    return re.search(r"^__version__ = '(.+)'$", source, re.MULTILINE).group(1)


setup(
    name='castling_det',
    version=read_version(),
    description='Castling-ViT attention for OpenMMLab detectors and segmentors',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    author='castling_det contributors',
    license='Apache-2.0',
    python_requires='>=3.11,<3.14',
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    packages=find_packages(include=['castling_det', 'castling_det.*']),
    entry_points={'console_scripts': ['castling-det = castling_det.__main__:main']},
    # `.mim` links to configs/ and tools/, where mmengine and mim look for them in a package.
    package_data={
        'castling_det': [
            '.mim/model-index.yml',
            '.mim/configs/**/*.py',
            '.mim/configs/**/*.yml',
            '.mim/configs/**/*.md',
            '.mim/tools/*.py',
            '.mim/tools/*.sh',
        ]
    },
)
