"""docs/tutorials: the files are written, the Python is run and the commands are typed, in order.

Short trainings on a few scenes; a tutorial that goes on from another runs after it.
"""

import itertools
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from test_docs import ROOT, blocks, commands

from mmkd.registry import FAMILIES

PAGES = ('detect', 'segment', 'your_own_method', 'your_own_family')
SHORT = [
    'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2',
    'train_dataloader.batch_size=2',
]  # fmt: skip
# run as processes of its own in tests/test_docs.py, test_compare_command_runs
ELSEWHERE = 'tools/compare.py'
FILE = re.compile(r'`([\w/-]+\.py)`:\n\n```python\n(.*?)```', re.S)
CODE = {'your_own_method': 1}  # blocks of Python that are run


def page(name: str) -> str:
    return f'docs/tutorials/{name}.md'


def shorter(text: str) -> str:
    """A page's text with the checkpoint that a short training writes."""
    return text.replace('iter_700.pth', 'iter_2.pth')


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder like a fresh clone."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('configs', 'tools', 'mmkd'):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def type_line(place, monkeypatch, load_tool, capfd):
    """A function that runs a command of a page in this process, short, and returns what it said."""
    monkeypatch.chdir(place)

    def run(line: str) -> str:
        capfd.readouterr()
        words = shlex.split(shorter(line))
        if words[0].startswith('PYTHONPATH='):
            monkeypatch.syspath_prepend(place / words.pop(0).partition('=')[2])
        assert words[0] == 'python', line
        name = Path(words[1]).stem
        if name == 'digit_scenes':
            monkeypatch.setattr(sys, 'argv', [*words[1:], '--train', '4', '--val', '2'])
            runpy.run_path(str(ROOT / words[1]), run_name='__main__')
        else:
            if name == 'train':
                words += [*([] if '--cfg-options' in words else ['--cfg-options']), *SHORT]
            tool = load_tool(name)
            tool.main(tool.parse_args(words[2:]))
        said = capfd.readouterr()
        return said.out + said.err

    return run


def expected(line: str, place: Path, said: str) -> bool:
    """Whether a command did what its page says."""
    words = shlex.split(line)
    after = dict(itertools.pairwise(words))
    if 'train.py' in line:
        folder = place / after['--work-dir']
        taught, distils = 'Distillation' in said, 'kd-' in after['tools/train.py']
        return (folder / 'iter_2.pth').is_file() and taught == distils
    if 'draw_distillation' in line:
        return '<svg' in (place / after['--out']).read_text()
    if 'digit_scenes' in line:
        return 'written' in said or 'already there' in said
    signs = {'test.py': '(test)', 'list_taps.py': 'student', 'export_student.py': 'bit-identical'}
    return next(sign for tool, sign in signs.items() if tool in line) in said


@pytest.mark.slow
@pytest.mark.parametrize('name', PAGES)
def test_a_tutorial_from_top_to_bottom(name, place, type_line, monkeypatch):
    text = (ROOT / page(name)).read_text()
    for file, code in FILE.findall(text):
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).write_text(shorter(code))
    lines = [line for line in commands([page(name)]) if ELSEWHERE not in line]
    assert len(lines) >= 2
    try:
        for line in lines:
            said = type_line(line)
            assert expected(line, place, said), f'{line}\n{said[-2000:]}'
        if name in CODE:
            for code in blocks(page(name), 'python')[-CODE[name] :]:
                exec(compile(code, name, 'exec'), {})
        if name == 'your_own_family':
            check_family(text, place, type_line)
    finally:
        FAMILIES._module_dict.pop('TwoMapSegmentor', None)


def check_family(text: str, place: Path, type_line) -> None:
    """The names in the log, and the line that stops `LogitKD` where the family is missing."""
    logged = (place / 'work_dirs/family/kd').glob('*/vis_data/scalars.json')
    (kept,) = [f.read_text() for f in logged if 'kd.loss_seg' in f.read_text()]
    for name in re.findall(r'`((?:kd|backbone)\.\w+)`', text.split('The log has')[1]):
        assert name in kept, name
    state = torch.load(place / 'work_dirs/family/kd/iter_2.pth', weights_only=False)
    assert 'decode_head.conv_object.weight' in state['state_dict']
    FAMILIES._module_dict.pop('TwoMapSegmentor')
    (said,) = re.findall(r'```\n(term .*)\n```', text)
    line = (
        'PYTHONPATH=my_family python tools/draw_distillation.py my_family/features.py '
        '--cfg-options model.terms.kd.type=LogitKD'
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        type_line(line)


def test_pages_name_files_that_their_commands_use():
    for name in PAGES[2:]:
        written = {file for file, _ in FILE.findall((ROOT / page(name)).read_text())}
        used = set(re.findall(r'my_\w+/[\w-]+\.py', '\n'.join(commands([page(name)]))))
        assert used and used <= written
    assert len(list((ROOT / 'docs/tutorials').glob('*.md'))) == len(PAGES)
