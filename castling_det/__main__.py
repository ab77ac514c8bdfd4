"""The command line: our tools by a verb, and tools of other projects in a process that knows us.

    castling-det VERB ARGS...                     also: python -m castling_det VERB ARGS...
    python -m castling_det TOOL.py ARGS...
    python -m castling_det -m MODULE ARGS...

Whoever reads a config whose base is ``castling_det::`` or imports mmdet's models must have imported
this package before. A tool runs as ``python TOOL.py`` would run it.
"""

import ast
import re
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

TOOLS = Path(__file__).parent / '.mim' / 'tools'
VERBS = {
    'new-config': 'new_config',
    'check': 'check_dataset',
    'browse': 'browse_dataset',
    'train': 'train',
    'test': 'test',
    'predict': 'image_demo',
    'castle': 'castle',
    'export': 'export_onnx',
    'distill': 'distill',
    'complexity': 'get_complexity',
    'benchmark': 'benchmark_latency',
    'plot-log': 'plot_log',
    'plot-masks': 'plot_masks',
    'plot-reconstructions': 'plot_reconstructions',
    'make-shapes': 'make_shapes',
}
FIRST_WORDS = re.compile(r'[^:.]+')  # of a tool's docstring


def main() -> None:
    """Run what the command line names; Ctrl-C ends it without a traceback, in imports too."""
    try:
        run()
    except KeyboardInterrupt as stop:
        sys.stderr.write('stopped\n')
        raise SystemExit(130) from stop


def run() -> None:
    """As :func:`main`; the import of this package has registered what tools need."""
    match sys.argv[1:]:
        case [verb, *words] if verb in VERBS:
            sys.argv[:] = [f'castling-det {verb}', *words]  # whose name argparse shows
            spec = spec_from_file_location(VERBS[verb], _file_of(verb))
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            module.main()
        case ['-m', module, *words]:
            sys.argv[:] = [module, *words]
            runpy.run_module(module, run_name='__main__', alter_sys=True)
        case [tool, *words] if Path(tool).is_file():
            sys.argv[:] = [tool, *words]
            sys.path[0] = str(Path(tool).resolve().parent)  # as for every script of Python's
            runpy.run_path(tool, run_name='__main__')
        case [] | ['-h' | '--help', *_]:
            print(usage())
        case [word, *_]:
            raise SystemExit(f'error: there is no file {word} and no such command\n\n{usage()}')


def usage() -> str:
    """The commands, each with the first words of its tool."""
    lines = ['usage: castling-det COMMAND ARGS...; castling-det COMMAND --help says more', '']
    for verb in VERBS:
        described = ast.get_docstring(ast.parse(_file_of(verb).read_text()))
        lines.append(f'  {verb:22}{FIRST_WORDS.match(described)[0]}')
    lines += [
        '',
        'python -m castling_det (TOOL.py | -m MODULE) ARGS... runs those of other projects',
    ]
    return '\n'.join(lines)


def _file_of(verb: str) -> Path:
    return TOOLS / f'{VERBS[verb]}.py'


if __name__ == '__main__':
    main()
