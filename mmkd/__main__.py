"""``python -m mmkd TOOL ...``: the tools that travel with the package, ``python -m mmkd train``."""

import runpy
import sys
from pathlib import Path

TOOLS = Path(__file__).parent / '.mim' / 'tools'


def main() -> None:
    """Runs the tool that is named first, with the arguments that follow.

    Raises:
        SystemExit: if there is no such tool.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    files = {f.relative_to(TOOLS).with_suffix('').as_posix(): f for f in TOOLS.rglob('[!_]*.py')}
    if name not in files:
        known = ', '.join(sorted(files))
        sys.exit(f'mmkd: error: no tool {name!r}: python -m mmkd TOOL, one of {known}')
    sys.argv[:] = [str(files[name]), *sys.argv[2:]]
    sys.path[0] = str(files[name].parent)  # where Python itself puts the folder of a script
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
