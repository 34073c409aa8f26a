"""Hook of mkdocs: formulas as MathML, which browsers draw by themselves.

The pages have `$...$` and `$$...$$`, as code hosts read them. `pymdownx.arithmatex` marks them, and
latex2mathml translates them while the site is built: nothing is loaded, no script runs.
"""

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_content(content, page, config, files):
    """Translate the formulas of a page."""

    def translate(match):
        latex = html.unescape(match[3]).strip()
        block = match[2] == '['
        drawn = convert(latex, display='block' if block else 'inline')
        if '\\' in html.unescape(drawn):  # latex2mathml writes out what it does not know
            raise PluginError(f'{page.file.src_uri}: not known in a formula: {latex}')
        return f'<div class="formula">{drawn}</div>' if block else drawn

    return MARKED.sub(translate, content)
