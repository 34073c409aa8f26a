"""Write what OpenMMLab's tools look a config up by: a metafile per folder, and mmkd's model index.

To be called after a config was added, removed or renamed: ``python tools/model_index.py``
"""

import ast
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INDEX = 'mmkd/.mim/model-index.yml'
HEAD = '# Written by tools/model_index.py.\n'


def model_index(root: Path = ROOT) -> dict[str, str]:
    """Give the text of the index and of each metafile, by its path in the repository."""
    folders: dict[Path, list[Path]] = {}
    for config in sorted((root / 'configs').rglob('*.py')):
        if '_base_' not in config.relative_to(root).parts:
            folders.setdefault(config.parent.relative_to(root), []).append(config)
    metafiles = {
        f'{folder.as_posix()}/metafile.yml': _metafile(folder, configs)
        for folder, configs in folders.items()
    }
    index = HEAD + 'Import:\n' + ''.join(f'  - {path}\n' for path in metafiles)
    return {INDEX: index, **metafiles}


def _metafile(folder: Path, configs: list[Path]) -> str:
    collection = '/'.join(('mmkd', *folder.parts[1:]))
    text = f'{HEAD}Collections:\n  - Name: {collection}\nModels:\n'
    for config in configs:
        title = (ast.get_docstring(ast.parse(config.read_text())) or '').partition('\n')[0]
        text += (
            f'  - Name: {config.stem}\n'
            f'    In Collection: {collection}\n'
            f'    Config: {(folder / config.name).as_posix()}\n'
            f'    Metadata:\n'
            f'      Description: {json.dumps(title)}\n'
        )
    return text


if __name__ == '__main__':
    for name, content in model_index().items():
        (ROOT / name).write_text(content)
        print(name)
