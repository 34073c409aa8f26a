"""What README and docs tell a reader to type is typed here, on a data set of a few images."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmkd  # noqa: F401
from mmkd.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    'README.md',
    *(f'docs/{name}.md' for name in (
        'quickstart', 'concepts', 'deploy', 'faq', 'reading_the_log', 'migrating_from_mmrazor',
        'own_data', 'plugins', 'methods', 'teachers', 'configs', 'instruments', 'reliability',
    )),
)  # fmt: skip
# commands that need something of their own: where they are run, by a test that names
ELSEWHERE = {
    '/my_data/': ('tests/tools/test_own_data.py', 'own_data.md'),
    'python -m mmkd': ('tests/test_wheel.py', "'mmkd'"),
}
DEMO = 'configs/demo/kd-ds_retinanet_digits.py'
SHORT = [
    'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2',
    'train_dataloader.batch_size=2', 'model.teacher.checkpoint=None',
]  # fmt: skip


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', (ROOT / page).read_text(), flags=re.S)


def commands(pages=PAGES) -> list[str]:
    found = []
    for page in pages:
        for block in blocks(page, 'bash'):
            found += [line.split('#')[0].strip() for line in block.splitlines()]
    return [line for line in dict.fromkeys(found) if line]


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder like a fresh clone with a tiny data set and a checkpoint of two steps."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('configs', 'tools', 'mmkd'):
        (folder / name).symlink_to(ROOT / name)
    converter = 'tools/dataset_converters/digit_scenes.py'
    run(folder, [sys.executable, converter, 'data/digits', '--train', '4', '--val', '2'])
    options = ['--work-dir', 'work_dirs/mine', '--cfg-options', *SHORT]
    run(folder, [sys.executable, 'tools/train.py', DEMO, *options])
    return folder


def run(folder: Path, command: list[str]) -> str:
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (
        f'{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}'
    )
    return done.stdout


def test_make_targets_exist():
    named = {line.split()[1] for line in commands() if line.startswith('make ')}
    assert named >= {'demo', 'test'}
    makefile = (ROOT / 'Makefile').read_text()
    assert all(re.search(rf'^{name}:', makefile, flags=re.M) for name in named)


def test_every_command_of_the_pages_is_known_here():
    starts = ('make ', 'pip install', 'python tools/', 'tools/dist_train.sh', 'python -m mmkd')
    assert len(commands()) >= 8
    assert [line for line in commands() if not line.startswith(starts)] == []


def is_plain(line: str) -> bool:
    special = ('compare', 'export_', *ELSEWHERE)
    return line.startswith('python tools/') and not any(word in line for word in special)


@pytest.mark.parametrize('words', ELSEWHERE)
def test_what_is_run_elsewhere_is(words):
    file, named = ELSEWHERE[words]
    assert any(words in line for line in commands())
    assert named in (ROOT / file).read_text()


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for name, target in re.findall(r'\[([^\]]*)\]\(([^)\s]+)\)', text):
        if target.startswith('http'):
            continue
        path, _, anchor = target.partition('#')
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r'^#+ (.*)$', file.read_text(), flags=re.M)
            assert anchor in map(slug, headings), target
        if name.startswith('`test_'):
            assert f'def {name.strip("`")}(' in file.read_text(), name


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


TOOLS = [line for line in commands() if is_plain(line)]


@pytest.mark.parametrize('line', TOOLS)
def test_tool_command_runs(line, place):
    words = shlex.split(line)
    words[0] = sys.executable
    checkpoint = 'work_dirs/mine/iter_2.pth'
    words = [checkpoint if w == 'CHECKPOINT' or w.endswith('.pth') else w for w in words]
    words = [DEMO if w == 'CONFIG' else w for w in words]
    tool = Path(words[1]).name
    if '--cfg-options' not in words:
        teacher = 'model.teacher.checkpoint=None'
        own = {'train.py': SHORT, 'list_taps.py': [teacher], 'benchmark.py': [teacher]}
        own['analyze.py'] = [teacher]
        options = own.get(tool, [])
        if '--teacher' in words:
            options = [teacher]
        words += ['--cfg-options', *options] if options else []
    words += ['--rounds', '1', '--size', '128'] if tool == 'benchmark.py' else []
    output = run(place, words)
    expected = {
        'train.py': 'Distillation', 'test.py': 'Iter(test)', 'list_taps.py': 'backbone',
        'benchmark.py': '/ (student + teacher)', 'analyze.py': 'Written to',
    }  # fmt: skip
    assert expected[tool] in output


@pytest.mark.slow
def test_deploy_page_runs_from_top_to_bottom(place):
    exports = [line for line in commands(['docs/deploy.md']) if 'export_' in line]
    assert len(exports) == 3
    for line in exports:
        words = shlex.split(line.replace('iter_400', 'iter_2'))
        expected = 'onnxruntime against torch' if 'onnx' in line else 'bit-identical'
        if expected == 'bit-identical' or find_spec('onnxruntime'):
            assert expected in run(place, [sys.executable, *words[1:]])
    (place / 'photo.jpg').write_bytes(next((place / 'data/digits').rglob('*.jpg')).read_bytes())
    detector, segmentor, safe = blocks('docs/deploy.md', 'python')
    run(place, [sys.executable, '-c', detector + safe])
    assert (place / 'out/vis/photo.jpg').is_file()
    # run on a segmentor in tests/tools/test_export_student.py
    assert 'MMSegInferencer' in segmentor


@pytest.mark.slow
def test_an_mmrazor_checkpoint_is_exported(place):
    (line,) = [c for c in commands(['docs/migrating_from_mmrazor.md']) if 'export_' in c]
    (snippet,) = [
        b for b in blocks('docs/migrating_from_mmrazor.md', 'python') if 'read_checkpoint' in b
    ]
    weights = torch.load(place / 'work_dirs/mine/iter_2.pth', weights_only=False)['state_dict']
    mixed = {f'architecture.{k}': v for k, v in weights.items()}
    mixed.update({f'teacher.{k}': v for k, v in weights.items()})
    torch.save(dict(state_dict=mixed, meta={}), place / 'mmrazor.pth')
    run(place, [sys.executable, '-c', snippet])
    words = shlex.split(line.replace('CONFIG', 'configs/demo/retinanet_student_digits.py'))
    assert 'bit-identical' in run(place, [sys.executable, *words[1:]])


@pytest.mark.slow
def test_compare_command_runs(place):
    (line,) = [c for c in commands() if 'compare.py' in c and 'BASELINE' in c]
    student = 'configs/demo/retinanet_student_digits.py'
    line = line.replace('BASELINE', student).replace('DISTILLED', DEMO)
    words = [sys.executable, *shlex.split(line)[1:]]
    options = [option for option in SHORT if not option.startswith('model.')]
    (place / 'work_dirs/demo').mkdir(exist_ok=True)
    train = ['configs/demo/retinanet_teacher_digits.py', '--work-dir', 'work_dirs/demo/t']
    run(place, [sys.executable, 'tools/train.py', *train, '--cfg-options', *options])
    (place / 'work_dirs/demo/t/iter_2.pth').rename(place / 'work_dirs/demo/teacher_det.pth')
    run(place, [*words, '--cfg-options', *options])
    assert 'paired' in (place / 'results/summary.md').read_text().lower()


def test_config_on_the_first_screen_builds(tmp_path):
    (block,) = blocks('README.md', 'python')
    path = tmp_path / 'kd-ds_retinanet_r101_r18_fpn_1x_coco.py'
    path.write_text(block)
    cfg = Config.fromfile(path)
    assert cfg.model.teacher.checkpoint == 'published'
    init_default_scope('mmdet')
    cfg.model.teacher.checkpoint = None  # the published file is a download
    cfg.model.student.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert [part.name for part in model.distillation.parts] == ['kd', 'backbone', 'neck']
    assert (ROOT / 'README.md').read_text().index('```') < 400


@pytest.mark.slow
def test_make_demo():
    done = subprocess.run(['make', 'demo'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name in ('detection.png', 'segmentation.png'):
        assert (ROOT / 'work_dirs/demo' / name).stat().st_size > 20_000
