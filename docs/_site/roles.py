"""Hook of mkdocs: ``:class:`mmkd.terms.LogitKD``` of a docstring becomes a link to that name."""

import re

ROLE = re.compile(r':(?:class|func|meth|mod):<code>~?([\w.]+)</code>')


def on_page_content(content, page, config, files):
    """Leave the link to mkdocs-autorefs; a name that is on no page stays as it is."""
    return ROLE.sub(r'<autoref identifier="\1" optional><code>\1</code></autoref>', content)
