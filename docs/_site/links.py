"""Hook of mkdocs: what the pages link to outside docs/ becomes a page of the site.

The pages are read on a code host too, where `../README.md` or `../configs/x.py` lead to the file.
The site shows the README as its first page, another page of Markdown as it is, a file of code as
code and a folder as a list, and so needs neither the host's address nor a network.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r'(\[[^\]\n]*\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?\)')
FENCE = re.compile(r'^(?:```|~~~).*?^(?:```|~~~)[ ]*$', re.M | re.S)
LANGUAGES = dict(py='python', sh='bash', yml='yaml', json='json', toml='toml')

places: dict[str, str] = {}  # path in the repository -> page of the site, both with '/'


def on_files(files, config):
    """Add the README and all that is linked to, directly or through an added page."""
    places.clear()
    texts = {}
    for file in files.documentation_pages():
        places[f'docs/{file.src_uri}'] = file.src_uri
        texts[f'docs/{file.src_uri}'] = file.content_string
    texts['README.md'] = (ROOT / 'README.md').read_text()
    places['README.md'] = 'index.md'
    known = {f'docs/{file.src_uri}' for file in files}
    waiting = list(texts)
    while waiting:
        origin = waiting.pop()
        for target in targets(texts[origin], origin):
            if target in known or target in texts:
                continue
            texts[target] = shown(target, origin)
            places[target] = f'repo/{target}' + ('' if target.endswith('.md') else '.md')
            if target.endswith('.md'):
                waiting.append(target)
    for path, place in places.items():
        if not path.startswith('docs/') or path not in known:
            level = InclusionLevel.UNDEFINED if path == 'README.md' else InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, place, content=texts[path], inclusion=level))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn a page's links from the repository's paths to the site's."""
    here = page.file.src_uri
    origin = next(path for path, place in places.items() if place == here)

    def turn(match):
        target = resolve(match[2], origin)
        place = places.get(target)
        if place is None and target.startswith('docs/'):
            place = target.removeprefix('docs/')  # a picture, or mkdocs says so
        if place is None:
            return match[0]
        relative = posixpath.relpath(place, posixpath.dirname(here) or '.')
        return f'{match[1]}{relative}{match[3] or ""})'

    return outside_fences(markdown, lambda text: LINK.sub(turn, text))


def outside_fences(text: str, change) -> str:
    """Change what does not stand in a fenced block."""
    pieces, last = [], 0
    for fence in FENCE.finditer(text):
        pieces += [change(text[last : fence.start()]), fence[0]]
        last = fence.end()
    return ''.join([*pieces, change(text[last:])])


def resolve(target: str, origin: str) -> str:
    """The path in the repository of a link on a page."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def targets(text: str, origin: str) -> list[str]:
    """Paths in the repository that a page links to, if they exist."""
    found = []
    outside_fences(text, lambda piece: found.extend(LINK.findall(piece)) or '')
    return [resolve(target, origin) for _, target, _ in found]


def shown(path: str, origin: str) -> str:
    """A file or a folder outside docs/ as a page.

    Raises:
        PluginError: if it does not exist, which ends the build.
    """
    place = ROOT / path
    if not place.exists() or path.startswith('..'):
        raise PluginError(f'{origin} links to {path}, which does not exist')
    if path.endswith('.md'):
        return place.read_text()
    title = f'---\nsearch:\n  exclude: true\n---\n# {path}\n\n'
    if place.is_dir():
        names = sorted(p.name + '/' * p.is_dir() for p in place.iterdir() if p.name[0] not in '._')
        return title + ''.join(f'* `{name}`\n' for name in names)
    language = LANGUAGES.get(place.suffix[1:], 'text')
    return f'{title}````{language}\n{place.read_text().rstrip()}\n````\n'
