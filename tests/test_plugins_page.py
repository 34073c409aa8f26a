"""docs/plugins.md shows the example package as it is, and its notebook runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / 'tests/plugin'
PAGE = (ROOT / 'docs/plugins.md').read_text()
SHOWN = [*sorted((PLUGIN / 'mmkd_example').glob('*.py')), *PLUGIN.glob('kd-ds_*.py')]


@pytest.mark.parametrize('path', SHOWN, ids=lambda path: path.stem)
def test_the_page_shows_the_package_as_it_is(path):
    assert f'```python\n{path.read_text()}```' in PAGE


def test_what_the_page_says_of_lesson_and_rehearsal_exists():
    from mmkd.distillers.lesson import Lesson
    from mmkd.distillers.rehearsal import Rehearsal

    for table, cls in (('lesson', Lesson), ('rehearsal', Rehearsal)):
        rows = PAGE.split(f'| `{table}.` |')[1].split('\n\n')[0].splitlines()[2:]
        names = [name for row in rows for name in re.findall(r'`(\w+)', row.split('|')[1])]
        source = Path(sys.modules[cls.__module__].__file__).read_text()
        assert len(names) >= 5
        for name in names:
            known = hasattr(cls, name) or re.search(rf'(self\.{name} =|^    {name}:)', source, re.M)
            assert known, f'{table}.{name}'


@pytest.mark.parametrize('config', ['kd-ds_retinanet_digits.py', 'kd-ds_fcn_digits.py'])
def test_the_notebook_runs_in_a_plain_process(config, tmp_path):
    (block,) = [b for b in re.findall(r'```python\n(.*?)```', PAGE, re.S) if 'toy_batch' in b]
    code = block.replace('kd-ds_retinanet_digits.py', config)
    code += """
from mmengine.registry import DefaultScope
assert DefaultScope.get_current_instance() is None
exits = {name.split('.')[0] for name in losses} & set(cfg.model.exits)
assert exits == set(cfg.model.exits) and any(name.startswith('kd.loss') for name in losses)
sum(sum(x) if isinstance(x, list) else x for k, x in losses.items() if 'loss' in k).backward()
print('taught', all(p.grad is not None for p in model.distillation.parameters()))
"""
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'taught True' in done.stdout
