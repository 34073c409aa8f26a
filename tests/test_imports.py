"""Imports point one way, and mmkd needs only one of mmdet and mmseg."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / 'mmkd'
# Who may import whom, inside mmkd; everyone may import its own folder and what lies below.
BELOW = {
    'registry': set(),
    'losses/functional': set(),
    'analysis': set(),
    'losses': {'registry'},
    'adapters': {'registry'},
    'regions': {'registry'},
    'families': {'registry', 'losses'},
    'terms': {'registry'},
    'exits': {'registry', 'terms', 'losses'},
    'distillers': {'registry', 'families', 'terms'},
    'hooks': {'registry', 'distillers'},
}
LIBRARIES_IN = ('families', 'exits', 'regions', 'testing')


def files():
    found = sorted(ROOT.rglob('*.py'))
    assert len(found) > 40
    return found


def layer(parts):
    """``losses/functional``, ``losses``, ``registry``, ... of a path or module inside mmkd."""
    if parts[:2] == ['losses', 'functional']:
        return 'losses/functional'
    return parts[0] if parts else ''


def imports(path):
    """Absolute names of all modules that a file imports, wherever in it."""
    package = ['mmkd', *path.relative_to(ROOT).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.append('.'.join(base + ([node.module] if node.module else [])))
    return names


def own_layer(path):
    return layer([*path.relative_to(ROOT).with_suffix('').parts])


def test_imports_point_one_way():
    wrong = []
    for path in files():
        mine = own_layer(path)
        if mine not in BELOW:
            continue
        for name in imports(path):
            parts = name.split('.')
            if parts[0] == 'mmkd' and len(parts) > 1:
                theirs = layer(parts[1:])
                within = theirs == mine or theirs.startswith(f'{mine}/')
                above = mine.startswith(f'{theirs}/') and mine != 'losses/functional'
                if not (within or above or theirs.split('/')[0] in BELOW[mine]):
                    wrong.append(f'{path.relative_to(ROOT)} imports {name}')
    assert not wrong


def test_every_part_of_the_package_has_its_place():
    folders = {p.parent.name for p in ROOT.glob('*/__init__.py')}
    assert folders <= set(BELOW)


def test_mmdet_and_mmseg_are_imported_in_few_places():
    wrong = [
        f'{path.relative_to(ROOT)} imports {name}'
        for path in files()
        for name in imports(path)
        if name.split('.')[0] in ('mmdet', 'mmseg') and own_layer(path) not in LIBRARIES_IN
    ]
    assert not wrong


def test_loss_functions_import_torch_only():
    allowed = set(sys.stdlib_module_names) | {'torch', 'mmkd'}
    for path in files():
        if own_layer(path) == 'losses/functional':
            assert {name.split('.')[0] for name in imports(path)} <= allowed, path


ONE_STEP = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == {absent!r}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(f) for f in sys.meta_path]
sys.path.insert(0, {tests!r})
from toys import *

cfg = {make}
model = distil(
    cfg(), teacher=random_teacher(cfg(width=16)),
    terms=dict(kd=dict(type='LogitKD'), f=dict(type='FeatureKD', tap='backbone[1:]')),
    exits=dict(e=dict(type={exit!r}, tap='backbone[1:]')))
total(model.loss(*{make_batch}(model))).backward()
assert all(p.grad.isfinite().all() for p in model.distillation.parameters())
assert {absent!r} not in sys.modules
import mmkd.hooks
print('done', type(model).__name__)
"""


@pytest.mark.parametrize(
    'absent, make, exit_type',
    [('mmseg', 'detector', 'DenseExit'), ('mmdet', 'segmentor', 'SegExit')],
)
def test_one_library_is_enough(absent, make, exit_type):
    make_batch = dict(detector='det_batch', segmentor='seg_batch')[make]
    code = ONE_STEP.format(
        absent=absent, make=make, exit=exit_type, make_batch=make_batch,
        tests=str(Path(__file__).parent),
    )  # fmt: skip
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    assert 'done Distilled' in run.stdout
