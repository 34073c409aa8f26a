"""Packaging: versions agree, nothing is left out, and the set-up does nothing twice."""

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

import mmkd

ROOT = Path(__file__).parents[1]
# What the set-up is asked to do ends up here, one call of the stand-in interpreter a line.
STAND_IN = """#!/bin/sh
echo "$*" >>"{log}"
case "$*" in
  *"-m venv "*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python";;
  *version_info*) exit {supported};;
  *mmcv._ext*) exit {ops};;
esac
"""


@pytest.fixture(scope='module')
def metadata():
    """Give what setup.py hands to setuptools."""
    caught = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, 'setup', caught.update)
        runpy.run_path(str(ROOT / 'setup.py'))
    return caught


@pytest.fixture(scope='module')
def pins() -> dict[str, str]:
    """Give the tested version of each distribution."""
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith('#')]
    exact = {r.name: re.fullmatch(r'==([\w.]+)', str(r.specifier)) for r in requirements}
    assert all(exact.values()), [name for name, match in exact.items() if not match]
    return {name: match[1] for name, match in exact.items()}


def test_version_and_packages(metadata):
    assert metadata['version'] == mmkd.__version__
    folders = {path.parent for path in (ROOT / 'mmkd').rglob('*.py')}
    names = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(metadata['packages']) == names


def test_the_hooks_of_a_commit_run_the_tested_linter(pins):
    text = (ROOT / '.pre-commit-config.yaml').read_text()
    named = re.findall(r'ruff==([\w.]+)', text)
    assert set(named) == {pins['ruff']} and len(named) == 2
    assert 'https://' not in text  # what it needs comes from pip


def test_tested_versions_lie_in_the_supported_ranges(metadata, pins):
    extras = metadata['extras_require']
    assert set(extras) == {'det', 'seg', 'all', 'dev', 'onnx', 'foundation', 'docs', 'slurm'}
    lines = [*metadata['install_requires'], *(line for name in extras for line in extras[name])]
    for requirement in map(Requirement, lines):
        assert pins[requirement.name] in requirement.specifier
    assert set(extras['all']) == {*extras['det'], *extras['seg']}


def test_a_plain_install_leaves_the_libraries_to_the_user(metadata):
    names = {Requirement(line).name for line in metadata['install_requires']}
    assert names == {'torch', 'numpy', 'safetensors', 'rich'}


def test_each_extra_brings_one_library(metadata):
    brought = {
        extra: {Requirement(line).name for line in metadata['extras_require'][extra]}
        for extra in ('det', 'seg')
    }
    assert brought['det'] - brought['seg'] == {'onedl-mmdetection'}
    assert brought['seg'] - brought['det'] == {'onedl-mmsegmentation'}


def test_pip_is_told_nowhere_where_to_look():
    for name in ('setup.py', 'constraints.txt', 'Makefile', 'tools/setup_env.sh', '.ci/run'):
        text = (ROOT / name).read_text()
        assert not re.search(r'https?://|index-url|find-links|trusted-host', text), name


class Setup:
    """Runs tools/setup_env.sh with a stand-in for Python, so that nothing is installed."""

    def __init__(self, folder: Path, supported: int = 0, ops: int = 0):
        self.log = folder / 'log'
        self.venv = folder / 'venv'
        self.python = folder / 'python'
        self.python.write_text(STAND_IN.format(log=self.log, supported=supported, ops=ops))
        self.python.chmod(0o755)

    def __call__(self) -> tuple[int, str]:
        env = dict(os.environ, PYTHON=str(self.python), VENV=str(self.venv))
        command = [str(ROOT / 'tools' / 'setup_env.sh')]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def installs(self) -> list[str]:
        """Give what pip was asked for, in order."""
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return [call.split('constraints.txt ')[1] for call in calls if '-m pip install' in call]


def test_setup_installs_in_the_order_that_works_and_only_once(tmp_path):
    setup = Setup(tmp_path)
    code, text = setup()
    assert code == 0, text
    installs = setup.installs()
    assert installs[0] == 'torch'
    assert installs[2] == '--no-build-isolation onedl-mmcv'
    assert '-e .[all,dev,docs]' in installs[3]
    assert installs[4].endswith('opencv-python-headless')
    assert 'minutes' in text
    assert setup() == (0, '')
    assert len(setup.installs()) == len(installs) == 5


def test_setup_runs_again_when_its_stamp_is_of_other_versions(tmp_path):
    setup = Setup(tmp_path)
    setup()
    (setup.venv / 'mmkd-stamp').write_text('of another day')
    assert setup()[0] == 0
    assert len(setup.installs()) == 10


def test_setup_refuses_mmcv_without_its_operators(tmp_path):
    setup = Setup(tmp_path, ops=1)
    for _ in range(2):
        code, text = setup()
        assert code == 1
        assert 'mmcv was installed without its compiled operators' in text


def test_setup_names_an_unsupported_python(tmp_path):
    setup = Setup(tmp_path, supported=1)
    code, text = setup()
    assert code == 1
    assert f'PYTHON={setup.python} is not a Python 3.10 to 3.12' in text
    assert not setup.venv.exists()
