"""Write the reference of the public names, from their docstrings, into a folder.

python docs/reference/write.py FOLDER

Public is what ``__all__`` names. A public class or function without a docstring is an error, and so
is whatever pdoc warns of, as a name that cannot be resolved.
"""

import sys
import warnings
from pathlib import Path

import pdoc

import castling_det
from castling_det.inference.predictor import Predictor

MODULES = [
    'castling_det',  # and its `models` and `hooks`
    'castling_det.detection',
    'castling_det.segmentation',
    'castling_det.classification',
    'castling_det.ops',
    'castling_det.configs',
    'castling_det.inference.result',
    'castling_det.export.vit_file',
    'castling_det.errors',
]


def undocumented() -> list[str]:
    """Full names of public classes and functions without a docstring."""
    names = pdoc.extract.walk_specs(MODULES)
    members = (m for name in names for m in pdoc.doc.Module.from_name(name).own_members)
    members = (m for m in members if m.kind in ('class', 'function') and not m.name.startswith('_'))
    return [member.fullname for member in members if not member.docstring]


def main() -> None:
    castling_det.Predictor = Predictor  # the package imports it when asked; pdoc does not ask
    warnings.filterwarnings('error', module='pdoc')
    if found := undocumented():
        raise SystemExit(f'error: without a docstring: {", ".join(found)}')
    pdoc.render.configure(
        docformat='google', include_undocumented=False, template_directory=Path(__file__).parent
    )
    pdoc.pdoc(*MODULES, output_directory=Path(sys.argv[1]))


if __name__ == '__main__':
    main()
