"""Write what a config is looked up by: a metafile per folder, mmkd's model index, docs/configs.md.

To be called after a config was added, removed or renamed: ``python tools/model_index.py``
"""

import ast
import json
from pathlib import Path

from mmengine.config import Config

import mmkd  # noqa: F401  so that `mmdet::` and `mmseg::` are found

ROOT = Path(__file__).resolve().parents[1]
INDEX = 'mmkd/.mim/model-index.yml'
PAGE = 'docs/configs.md'
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


def config_page(root: Path = ROOT) -> str:
    """Give the text of the page that lists every config: student, teacher and method."""
    text = (
        '# Every config\n\n<!-- Written by tools/model_index.py. -->\n\n'
        'What a config teaches is read from it. `published` weights are those that mmdet and mmseg '
        'list for the teacher; others are files of your own.\n'
    )
    folder = None
    for path in sorted((root / 'configs').rglob('*.py')):
        place = path.relative_to(root)
        if '_base_' in place.parts:
            continue
        if place.parent != folder:
            folder = place.parent
            text += f'\n## {"/".join(folder.parts[1:])}\n\n'
            text += '| config | student | teacher | taught by |\n|---|---|---|---|\n'
        text += config_row(place, Config.fromfile(path)) + '\n'
    return text


def config_row(place: Path, cfg: Config) -> str:
    """Give a config's line on that page."""
    model = cfg.model
    cells = [f'[{place.stem}](../{place.as_posix()})', _describe_model(model.get('student', model))]
    if 'student' not in model:
        return f'| {" | ".join([*cells, "-", "labels alone"])} |'
    teachers = model.get('teacher') or {}
    if isinstance(teachers, str):
        cells.append(teachers)
    else:
        several = [teachers] if 'config' in teachers else list(teachers.values())
        cells.append('; '.join(map(_describe_teacher, several)) or 'none')
    parts = [*(model.get('terms') or {}).values(), *(model.get('exits') or {}).values()]
    cells.append('; '.join(_describe_part(part) for part in parts if part))
    return f'| {" | ".join(cells)} |'


def _describe_model(model: dict) -> str:
    backbone = model.get('backbone')
    if backbone is None:
        return model['type']
    sizes = [backbone.get(key) for key in ('depth', 'arch', 'widen_factor')]
    size = next((f'-{x}' for x in sizes if isinstance(x, str | int | float)), '')
    return f'{model["type"]}, {backbone["type"]}{size}'


def _describe_teacher(teacher: dict) -> str:
    config, checkpoint = teacher['config'], teacher.get('checkpoint')
    name = Path(config).stem if isinstance(config, str) else config.get('name_or_path', config.type)
    return f'{name} ({checkpoint})' if checkpoint else name


def _describe_part(part: dict) -> str:
    losses = [v['type'] for k, v in part.items() if isinstance(v, dict) and k.startswith('loss')]
    text = part['type'] + (f' ({", ".join(losses)})' if losses else '')
    tap = part.get('tap')
    if tap:
        text += f' at {tap if isinstance(tap, str) else ", ".join(tap)}'
    return text


if __name__ == '__main__':
    for name, content in {**model_index(), PAGE: config_page()}.items():
        (ROOT / name).write_text(content)
        print(name)
