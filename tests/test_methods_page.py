"""docs/methods.md names what is registered, and leaves nothing out."""

import json
import re
from pathlib import Path

from mmkd.registry import MODELS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/methods.md').read_text()
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


def scores(folder: str) -> dict[str, float]:
    """A run's score by its method: what its config's name begins with, or ``alone``."""
    found = {}
    for path in (ROOT / 'docs/results/methods' / folder).glob('*.json'):
        record = json.loads(path.read_text())
        method = re.split('_?(?:fcn|retinanet)_', record['config'])[0]
        found[method or 'alone'] = record['score']
    return found


def test_every_run_stands_in_the_table_of_results():
    columns = {name: scores(name) for name in ('ccp8', 'ccp8-share', 'bccd', 'bccd-share')}
    rows = {}
    for line in PAGE.splitlines():
        named = re.match(r'\| (?:the student (alone)|[^|]*`([\w-]+)_`[^|]*) \|', line)
        if named:
            rows[named[1] or named[2]] = [cell.strip() for cell in line.split('|')[2:-1]]
    assert len(rows) >= 18 and {'alone', 'kd', 'kd-ds'} <= set(rows)
    for index, (name, found) in enumerate(columns.items()):
        assert set(found) <= set(rows)
        # a column of another machine has a student alone of its own
        alone = found.get('alone', columns[name.split('-')[0]]['alone'])
        for method, cells in rows.items():
            if method not in found:
                assert cells[index] == '-', method
                continue
            text = f'{found[method]:.1f}'
            if method != 'alone':
                text += f' ({found[method] - alone:+.1f})'
            assert cells[index] == text, (name, method)


def test_attention_from_a_small_start():
    alone, low = scores('ccp8')['alone'], scores('ccp8-at-low')['at']
    assert f'ends at {low:.1f}, {low - alone:.1f} above the student alone' in PAGE


def test_students_with_bins():
    found = {}
    for folder in ('bccd-gfl', 'bccd-gfl-share'):
        for path in (ROOT / 'docs/results/methods' / folder).glob('*.json'):
            record = json.loads(path.read_text())
            name = record['config'].partition('gfl_')[0].strip('_')
            found[name, record['grad_share']] = f'{record["score"]:.1f}'
    assert f'student alone {found["", None]})' in PAGE
    assert f'vanilla KD, whose bins count too, {found["kd", None]};' in PAGE
    assert f'without a teacher, {found["golsd", None]};' in PAGE
    assert f'LD {found["ld", None]}, and {found["ld", 0.1]} at an equal share' in PAGE
