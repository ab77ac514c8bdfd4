"""Run a tool of another project in a process that knows our types, configs and stand-ins.

    python -m castling_det TOOL.py ARGS...
    python -m castling_det -m MODULE ARGS...

Whoever reads a config whose base is ``castling_det::`` or imports mmdet's models must have imported
this package before. The tool runs as ``python TOOL.py`` would run it.
"""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run what the command line names; the import of this package has registered the rest."""
    match sys.argv[1:]:
        case ['-m', module, *words]:
            sys.argv[:] = [module, *words]
            runpy.run_module(module, run_name='__main__', alter_sys=True)
        case [tool, *words] if Path(tool).is_file():
            sys.argv[:] = [tool, *words]
            sys.path[0] = str(Path(tool).resolve().parent)  # as for every script of Python's
            runpy.run_path(tool, run_name='__main__')
        case [tool, *_] if not tool.startswith('-'):
            raise SystemExit(f'error: {tool} does not exist')
        case _:
            raise SystemExit('usage: python -m castling_det (TOOL.py | -m MODULE) ARGS...')


if __name__ == '__main__':
    main()
