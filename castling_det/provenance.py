"""Where numbers and files come from: the commit of the code, and the machine's CPU."""

import platform
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def source_commit() -> str:
    """What git calls the commit of this code, with '-dirty' where it was changed; or 'unknown'.

    It is unknown without git, and where the package lies inside of somebody else's repository.
    """
    if Path(_git('rev-parse', '--show-toplevel')) != PACKAGE.parent:
        return 'unknown'
    return _git('describe', '--always', '--dirty') or 'unknown'


def cpu_name() -> str:
    """What Linux calls the CPU; elsewhere the architecture."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else ()
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.machine())


def _git(*words: str) -> str:
    """What it prints; nothing where it fails or is missing."""
    try:
        done = subprocess.run(['git', *words], cwd=PACKAGE, capture_output=True, text=True)
    except FileNotFoundError:
        return ''
    return done.stdout.strip()
