"""docs/methods.md names what is registered, and leaves nothing out."""

import re
from pathlib import Path

from mmkd.registry import MODELS

PAGE = (Path(__file__).parents[1] / 'docs/methods.md').read_text()
TABLE = [line.split('|') for line in PAGE.splitlines() if re.match(r'\| .* \(', line)]


def names() -> set[str]:
    """What the table's second column names with a capital letter."""
    cells = ' '.join(row[2] for row in TABLE)
    return set(re.findall(r'`(?:mmkd\.)?([A-Z]\w+)`', cells))


def test_every_name_is_registered():
    assert len(TABLE) >= 24
    MODELS.import_from_location()
    unknown = {n for n in names() if n != 'FoundationBackbone' and n not in MODELS.module_dict}
    assert unknown == set()


def test_every_loss_term_and_exit_is_named():
    MODELS.import_from_location()
    places = ('mmkd.losses.', 'mmkd.exits.', 'mmkd.terms.')
    ours = {n for n, x in MODELS.module_dict.items() if x.__module__.startswith(places)}
    assert len(ours) >= 35
    assert {name for name in ours if f'`{name}`' not in PAGE and f"'{name}'" not in PAGE} == set()
