"""The site of `make docs`: builds strictly, loads nothing from elsewhere, and is complete."""

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

pytest.importorskip('mkdocs', reason="the extra 'docs' is not installed")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
LOADS = {'script': 'src', 'img': 'src', 'iframe': 'src', 'source': 'src', 'video': 'src'}
PUBLIC = sorted(ROOT.glob('mmkd/**/__init__.py'))


def build(folder: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'mkdocs', 'build', '--site-dir', str(out)]
    environment = dict(os.environ, NO_MKDOCS_2_WARNING='1')
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


class Page(HTMLParser):
    """What a page loads, links to, and can be linked to; its text by paragraph."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.ids, self.paragraphs = [], [], set(), []
        self.math, self.scripts, self.inside = 0, '', []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.inside.append(tag)
        if tag in LOADS and LOADS[tag] in found:
            self.loads.append(found[LOADS[tag]])
        if tag == 'link' and found.get('rel') not in ('canonical', 'next', 'prev'):
            self.loads.append(found['href'])
        if tag == 'a' and 'href' in found:
            self.links.append(found['href'])
        if tag == 'p':
            self.paragraphs.append('')
        self.math += tag == 'math'
        self.ids |= {found[key] for key in ('id', 'name') if found.get(key)}

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if 'p' in self.inside and not {'code', 'math'} & {*self.inside}:
            self.paragraphs[-1] += data
        if {'script', 'style'} & {*self.inside[-1:]}:
            self.scripts += data


@pytest.fixture(scope='module')
def pages(tmp_path_factory) -> dict[Path, Page]:
    """Every page of the site, by its file."""
    out = tmp_path_factory.mktemp('site')
    done = build(ROOT, out)
    assert done.returncode == 0 and 'WARNING' not in done.stderr, done.stdout + done.stderr
    return {path: Page(path) for path in sorted(out.rglob('*.html'))}


@pytest.fixture(scope='module')
def site(pages) -> Path:
    """The folder of the site."""
    return next(path for path in pages if path.name == '404.html').parent


@pytest.mark.slow
def test_every_page_is_there_once(pages, site):
    sources = [p.relative_to(DOCS) for p in DOCS.rglob('*.md')]
    assert len(sources) > 25
    assert {site / p.with_suffix('.html') for p in sources} <= set(pages)
    assert 'Teach a small detector or segmentor' in (site / 'index.html').read_text()


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(pages, site):
    remote = re.compile(r'^(?:\w+:)?//')
    for path, page in pages.items():
        assert [x for x in page.loads if remote.match(x)] == [], path
        assert not re.search(r'(?:import|fetch|url)\W{1,3}(?:https?:)?//', page.scripts), path
        assert (
            'class="mermaid"' not in path.read_text()
        )  # for which the theme would fetch a library
    for style in site.rglob('*.css'):
        text = style.read_text()
        assert not re.search(r'(?:url\(|@import)\s*["\']?(?:https?:)?//', text), style


@pytest.mark.slow
def test_what_is_loaded_is_there(pages):
    for path, page in pages.items():
        for target in page.loads:
            if not target.startswith('data:'):
                file = path.parent / unquote(re.split('[?#]', target)[0])
                assert target.startswith('/') or file.is_file(), f'{path}: {target}'


@pytest.mark.slow
def test_links_and_anchors_lead_somewhere(pages):
    count = 0
    for path, page in pages.items():
        if path.name == '404.html':
            continue
        for link in page.links:
            if re.match(r'\w+:', link):
                continue
            target, _, anchor = unquote(link).partition('#')
            file = (path.parent / target).resolve() if target else path
            file = file / 'index.html' if file.is_dir() else file
            assert file.is_file(), f'{path}: {link}'
            if anchor and file in pages:
                assert anchor in pages[file].ids, f'{path}: {link}'
                count += 1
    assert count > 500


@pytest.mark.slow
def test_markdown_is_read_as_on_a_code_host(pages):
    """A list that touches its paragraph, a table that is none: text of a paragraph in the site."""
    left = re.compile(r'(?:^|\n)\s*(?:[*+-] |\d+\. |\|.*\|(?:\n|$)|#+ |```)|\]\(')
    for path, page in pages.items():
        assert [x[:200] for x in page.paragraphs if left.search(x)] == [], path


@pytest.mark.slow
def test_formulas_are_drawn_and_each_loss_has_one(pages, site):
    from fontTools.ttLib import TTFont

    text = (DOCS / 'formulas.md').read_text()
    blocks = re.findall(r'\$\$.+?\$\$', text, re.S)
    inline = re.findall(r'\$[^$\n]+\$', re.sub(r'\$\$.+?\$\$', '', text, flags=re.S))
    assert pages[site / 'formulas.html'].math == len(blocks) + len(inline) > 100
    sections = dict(re.findall(r'^### (\w+)\n\n(.*?)(?=^##|\Z)', text, re.M | re.S))
    assert set(sections) == set(names_of(ROOT / 'mmkd/losses/__init__.py'))
    for name, section in sections.items():
        assert section.count('$$') == 2 and '\nDivisor: ' in section, name
    drawn = re.findall(r'<math.*?</math>', (site / 'formulas.html').read_text(), re.S)
    letters = {int(x, 16) for x in re.findall(r'&#x([0-9A-Fa-f]+);', ''.join(drawn))}
    missing = letters - set(TTFont(DOCS / 'assets/math.woff').getBestCmap())
    assert not missing, [f'{x:X}' for x in missing]


def test_years_of_sources_are_those_of_the_docstrings():
    docstrings = {}
    for path in ROOT.glob('mmkd/losses/*.py'):
        classes = [x for x in ast.parse(path.read_text()).body if isinstance(x, ast.ClassDef)]
        docstrings.update({x.name: ast.get_docstring(x) or '' for x in classes})
    cited = re.findall(r'^### (\w+)\n\n.*?(20\d\d)', (DOCS / 'formulas.md').read_text(), re.M)
    assert len(cited) == len(names_of(ROOT / 'mmkd/losses/__init__.py'))
    for name, year in cited:
        if name != 'BinaryKLDivergence':  # KLDivergence for sigmoids; names no source of its own
            assert re.search(rf'(?:20)?{year[2:]}\b', docstrings[name]), f'{name}: {year}'


def names_of(init: Path) -> list[str]:
    """What a package says is public."""
    for node in ast.parse(init.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '__all__':
            return ast.literal_eval(node.value)
    return []


def test_every_public_name_is_in_the_api():
    import mmkd  # noqa: F401
    from mmkd.registry import FAMILIES, HOOKS, MODELS

    text = '\n'.join(path.read_text() for path in (DOCS / 'api').glob('*.md'))
    shown = re.findall(r'^::: ([\w.]+)$', text, re.M)
    assert len(shown) == len(set(shown)) > 100
    names = {name for init in PUBLIC for name in names_of(init)} - {'__version__'}
    for registry in (FAMILIES, HOOKS, MODELS):
        registry.import_from_location()
        found = registry.module_dict.items()
        names |= {name for name, kind in found if kind.__module__.startswith('mmkd.')}
    assert names - {name.rpartition('.')[2] for name in shown} == set()


MINI = {
    'README.md': '# Home\n\n[a page](docs/page.md#part) and [code](code.py)\n',
    'code.py': 'x = 1  # [no](link)\n',
    'docs/page.md': '# Page\n\n## Part\n\n[home](../README.md), [notes](../notes.md#one) $x^2$\n',
    'notes.md': '# Notes\n\n## One\n\n[code](code.py), [folder](docs/pictures)\n',
    'docs/pictures/a.txt': 'a',
}


@pytest.fixture
def mini(tmp_path) -> Path:
    """A small repository with the settings and hooks of this one."""
    text = (ROOT / 'mkdocs.yml').read_text().split('\nnav:')[0]
    text = re.sub(r'\nwatch:.*', '', text)
    files = {**MINI, 'mkdocs.yml': f'{text}\nnav:\n  - index.md\n  - page.md\n'}
    for hook in (DOCS / '_site').glob('*.py'):
        files[f'docs/_site/{hook.name}'] = hook.read_text()
    files['docs/assets/site.css'] = ''
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_what_lies_outside_docs_becomes_a_page(mini):
    done = build(mini, mini / 'site')
    assert done.returncode == 0, done.stdout + done.stderr
    home, page = (Page(mini / f'site/{name}.html') for name in ('index', 'page'))
    assert {'page.html#part', 'repo/code.py.html'} <= set(home.links)
    assert {'index.html', 'repo/notes.html#one'} <= set(page.links) and page.math == 1
    code = (mini / 'site/repo/code.py.html').read_text()
    assert '# [no](link)' in code  # as it is
    assert (
        '../repo/code.py.html' in code
        or 'code.py.html' in Page(mini / 'site/repo/notes.html').links
    )
    assert 'a.txt' in (mini / 'site/repo/docs/pictures.html').read_text()


@pytest.mark.parametrize('file, text, said', [
    ('docs/other.md', '# Other\n', 'other.md'),  # not in nav
    ('docs/page.md', '# Page\n\n## Part\n\n[x](#nowhere)\n', 'nowhere'),
    ('docs/page.md', '# Page\n\n## Part\n\n[x](../README.md#nowhere)\n', 'nowhere'),
    ('docs/page.md', '# Page\n\n## Part\n\n[x](nowhere.md)\n', 'nowhere.md'),
    ('docs/page.md', '# Page\n\n## Part\n\n[x](../nowhere.py)\n', 'nowhere.py'),
    ('docs/page.md', '# Page\n\n## Part\n\n![x](nowhere.png)\n', 'nowhere.png'),
    ('docs/page.md', '# Page\n\n## Part\n\n$\\nowhere{x}$\n', 'nowhere'),
    ('docs/page.md', '# Page\n\n## Part\n\n::: mmkd.nowhere\n', 'nowhere'),
])  # fmt: skip
def test_mistakes_end_the_build(file, text, said, mini):
    (mini / file).write_text(text)
    done = build(mini, mini / 'site')
    assert done.returncode != 0 and said in done.stdout + done.stderr


def test_the_folder_of_the_site_is_ignored_and_its_build_is_part_of_a_merge():
    assert '/site/' in (ROOT / '.gitignore').read_text().split()
    assert ' docs ' in (ROOT / '.ci/run').read_text()
    assert 'mkdocs build' in (ROOT / 'Makefile').read_text()
    settings = (ROOT / 'mkdocs.yml').read_text()
    assert 'font: false' in settings and 'strict: true' in settings
    assert yaml.safe_load(settings.split('\nnav:')[1])[0] == {'Home': 'index.md'}
