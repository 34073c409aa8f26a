"""Configs and tools travel with mmkd: found as `mmkd::...` from a clone and from a wheel."""

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ('mmkd', 'configs', 'tools', 'setup.py', 'pyproject.toml', 'LICENSE')
LEAVES = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.relative_to(ROOT).parts
}
# A user copies these and edits them, so they may name their teacher by a path.
BY_PATH = 'configs/segmentation/my_data/'


def run(python, *args, folder: Path, **variables: str) -> str:
    environment = dict(os.environ, OMP_NUM_THREADS='1', **variables)
    command = [str(python), *map(str, args)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    ignore = shutil.ignore_patterns('__pycache__')
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / 'src' / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / 'src' / name)
    options = ['-q', '--no-index', '--no-deps', '--no-build-isolation', '-w', folder]
    run(sys.executable, '-m', 'pip', 'wheel', *options, folder / 'src', folder=folder)
    (file,) = folder.glob('*.whl')
    return file


@pytest.fixture(scope='module')
def unpacked(wheel) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / 'site')
    return wheel.parent / 'site'


def test_the_wheel_holds_the_package_its_configs_and_its_tools(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in n}
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'mmkd').rglob('*.py')}
    carried = {
        *(p for pattern in ('*.py', '*.yml') for p in (ROOT / 'configs').rglob(pattern)),
        *(p for pattern in ('*.py', '*.sh') for p in (ROOT / 'tools').rglob(pattern)),
    } - {ROOT / 'tools/setup_env.sh', ROOT / 'tools/model_index.py'}
    carried = {f'mmkd/.mim/{p.relative_to(ROOT).as_posix()}' for p in carried}
    assert len(carried) > 40
    assert names == package | carried | {'mmkd/.mim/model-index.yml'}


def test_every_config_is_in_the_model_index_and_nothing_else():
    index = yaml.safe_load((ROOT / 'mmkd/.mim/model-index.yml').read_text())
    listed = []
    for path in index['Import']:
        metafile = yaml.safe_load((ROOT / path).read_text())
        collections = {c['Name'] for c in metafile['Collections']}
        for model in metafile['Models']:
            assert model['In Collection'] in collections
            assert model['Name'] == Path(model['Config']).stem
            listed.append(model['Config'])
    fix = 'run python tools/model_index.py'
    assert len(listed) == len(set(listed)) and set(listed) == LEAVES, fix
    assert len({Path(path).name for path in LEAVES}) == len(LEAVES), 'mim looks names up alone'


def test_index_and_metafiles_are_what_the_tool_writes():
    texts = runpy.run_path(str(ROOT / 'tools/model_index.py'))['model_index']()
    assert len(texts) > 5
    stale = [name for name, text in texts.items() if (ROOT / name).read_text() != text]
    assert stale == [], 'run python tools/model_index.py'


def test_no_config_names_a_teacher_by_a_path_that_only_a_clone_has():
    by_path = {p for p in LEAVES if "config='configs/" in (ROOT / p).read_text()}
    assert {path for path in by_path if not path.startswith(BY_PATH)} == set()


MINE = """
_base_ = 'mmkd::demo/retinanet_student_digits.py'
model = dict(
    _delete_=True, type='mmkd.Distiller', student=_base_.model,
    teacher=dict(config='mmkd::demo/retinanet_teacher_digits.py', checkpoint=None),
    terms=dict(kd=dict(type='LogitKD')))
"""
FROM_ANYWHERE = """
import mmkd
from mmengine.config import Config
from mmengine.hub import get_config
from mmkd.distillers.model_source import find_config, resolve_model
from mmkd.registry import MODELS

name = 'mmkd::demo/kd-ds_fcn_digits.py'
teacher = Config.fromfile(find_config(name)).model.teacher.config
print(mmkd.__file__)
print(resolve_model(teacher).model['_scope_'], len(resolve_model(teacher).classes))
print(get_config(name).model.terms.kd.type)
cfg = Config.fromfile('mine.py')
print(cfg.model.student['_scope_'], type(MODELS.build(cfg.model)).__name__)
"""


@pytest.mark.parametrize('place', ['clone', 'wheel'])
def test_configs_are_found_from_anywhere(place, request, tmp_path):
    home = ROOT if place == 'clone' else request.getfixturevalue('unpacked')
    (tmp_path / 'mine.py').write_text(MINE)
    said = run(sys.executable, '-c', FROM_ANYWHERE, folder=tmp_path, PYTHONPATH=str(home))
    lines = said.splitlines()
    assert lines[0] == str(home / 'mmkd/__init__.py')
    assert lines[1:3] == ['mmseg 11', 'LogitKD']
    # what is taken from a base of mmkd's is built in the library that has its type
    assert lines[-1] == 'mmkd DistilledRetinaNet'


def test_an_unknown_tool_is_one_line(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'mmkd', 'trian'], capture_output=True, text=True)
    assert done.returncode == 1 and 'list_taps, ' in done.stderr
    assert done.stderr.startswith("mmkd: error: no tool 'trian'") and done.stderr.count('\n') == 1


@pytest.mark.slow
def test_the_installed_wheel_trains_the_demo_in_an_empty_folder(wheel, tmp_path):
    venv, folder = tmp_path / 'venv', tmp_path / 'empty'
    folder.mkdir()
    run(sys.executable, '-m', 'venv', '--without-pip', venv, folder=folder)
    python = venv / 'bin/python'
    (site,) = (venv / 'lib').glob('python*/site-packages')
    # The libraries of this environment, without the clone: a path file in a path file is not read.
    paths = [p for p in sys.path if p.endswith('site-packages')]
    (site / 'libraries.pth').write_text('\n'.join(paths))
    options = ['-q', '--no-index', '--no-deps', wheel]
    run(sys.executable, '-m', 'pip', '--python', python, 'install', *options, folder=folder)
    where = run(python, '-c', 'import mmkd; print(mmkd.__file__)', folder=folder)
    assert where.strip() == str(site / 'mmkd/__init__.py')

    scenes = ['data/digits', '--train', '4', '--val', '2']
    run(python, '-m', 'mmkd', 'dataset_converters/digit_scenes', *scenes, folder=folder)
    short = [
        '--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2', 'default_hooks.checkpoint.interval=2',
    ]  # fmt: skip
    teacher = ['mmkd::demo/fcn_teacher_digits.py', '--work-dir', 'work_dirs/teacher', *short]
    run(python, '-m', 'mmkd', 'train', *teacher, folder=folder)
    weights = 'model.teacher.checkpoint=work_dirs/teacher/iter_2.pth'
    distilled = ['mmkd::demo/kd-ds_fcn_digits.py', *short, weights]
    tool = site / 'mmkd/.mim/tools/train.py'
    said = run(python, tool, *distilled, folder=folder)  # as `mim train mmkd` calls it
    assert 'teacher  fcn_teacher_digits: EncoderDecoder' in said

    (folder / 'mine.py').write_text("_base_ = 'mmkd::demo/kd-ds_fcn_digits.py'")
    run(python, '-m', 'mmkd', 'train', 'mine.py', *short, weights, folder=folder)
    assert "'mmkd" not in (folder / 'work_dirs/mine/mine.student.py').read_text()
    run_folder = folder / 'work_dirs/kd-ds_fcn_digits'
    assert (run_folder / 'iter_2.pth').is_file()
    assert not (site / 'mmkd/.mim/work_dirs').exists()
