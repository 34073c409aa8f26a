"""What docs/own_data.md tells a reader to type, on a few images of noise and random teachers."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SIDE = 128  # pixels
STOCK = ('retinanet', 'pspnet')
COMMON = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
COMMON += [option.replace('train', split) for option in COMMON for split in ('val', 'test')]
SHORT = dict(
    detection=[
        'train_cfg.max_epochs=1', 'train_dataloader.batch_size=2',
        'default_hooks.checkpoint.interval=1', 'auto_scale_lr.base_batch_size=2',
    ],
    segmentation=[
        'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2',
        'default_hooks.checkpoint.interval=2',
    ],
)  # fmt: skip


def commands(task: str) -> list[str]:
    page = (ROOT / 'docs/own_data.md').read_text()
    lines = [x for block in re.findall(r'```bash\n(.*?)```', page, re.S) for x in block.split('\n')]
    return [line for line in lines if f'configs/{task}/' in line and 'compare.py' not in line]


def write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for folder in ('images', 'masks'):
            (root / folder / split).mkdir(parents=True)
        images, boxes = [], []
        for i in range(count):
            x, y = (int(v) for v in rng.integers(0, SIDE // 2, 2))
            picture = rng.integers(0, 100, (SIDE, SIDE, 3)).astype(np.uint8)
            picture[y : y + 48, x : x + 48, i % 3] = 255
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[y : y + 48, x : x + 48] = 1 + i % 2
            cv2.imwrite(str(root / f'images/{split}/{i}.jpg'), picture)
            cv2.imwrite(str(root / f'masks/{split}/{i}.png'), mask)
            images.append(dict(id=i, file_name=f'{i}.jpg', width=SIDE, height=SIDE))
            box = dict(bbox=[x, y, 48, 48], area=2304, iscrowd=0)
            boxes.append(dict(id=i + 1, image_id=i, category_id=i % 3, **box))
        names = [dict(id=i, name=name) for i, name in enumerate(('person', 'car', 'dog'))]
        (root / 'annotations').mkdir(exist_ok=True)
        coco = dict(images=images, annotations=boxes, categories=names)
        (root / f'annotations/{split}.json').write_text(json.dumps(coco))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder like a fresh clone, with data where the page says."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    write_images(tmp_path / 'data/my_data')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(words: list[str]) -> list[str]:
    """What makes a command short, and leaves out what would be downloaded."""
    task = Path(words[1]).parts[1]
    values = [*COMMON, *SHORT[task]]
    for loader, place in (('train', 2), ('val', 1), ('test', 1)):
        values += [f'{loader}_dataloader.dataset.pipeline.{place}.scale=(128,128)']
    student = 'model.student' if 'kd-ds_' in words[1] else 'model'
    if task == 'segmentation':
        values += [f'{student}.pretrained=None', f'{student}.data_preprocessor.size=(128,128)']
        values += ['train_dataloader.dataset.pipeline.3.crop_size=(128,128)']
    else:
        values += [f'{student}.backbone.init_cfg=None']
    if '--resume' in words:  # twice as long as the run before
        values += dict(
            detection=['train_cfg.max_epochs=2'], segmentation=['train_cfg.max_iters=4']
        )[task]
    if student != 'model':
        values += ['model.teacher.checkpoint=None']
    return values


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_commands_run(task, place, load_tool, monkeypatch, capfd):
    lines = commands(task)
    assert len(lines) == 5 and sum('--resume' in line for line in lines) == 1
    files = {}
    for line in lines:
        words = shlex.split(line)[1:]
        checkpoint = next((w for w in words if w.endswith('.pth')), None)
        if checkpoint:
            last = max(Path(checkpoint).parent.glob('*.pth'), key=lambda p: p.stat().st_mtime)
            words[words.index(checkpoint)] = str(last)
        tool = load_tool(Path(words[0]).stem)
        tool.main(tool.parse_args([*words[1:], '--cfg-options', *options(words)]))
        if words[0].endswith('train.py'):
            folder = Path('work_dirs') / Path(words[1]).stem
            files[folder.name] = sorted(folder.glob('*.pth'))
            assert files[folder.name]
    said = capfd.readouterr()
    said = said.out + said.err
    shared = dict(detection='3 shared classes: person, car, dog',
                  segmentation='3 shared classes: background, leaf, stem')[task]  # fmt: skip
    assert shared in said
    (distilled,) = [paths for name, paths in files.items() if name.startswith('kd-ds_')]
    assert len(distilled) == 2  # of the first run, and of the resumed one
    content = torch.load(distilled[-1], map_location='cpu', weights_only=False)
    assert not any(name.startswith('distillation') for name in content['state_dict'])
    assert any(name == 'exits.backbone' for name in content['distill_state']['parts'])


# What a reader with a tiny data set and no network edits: the student's file, and the teacher's.
EDITS = dict(
    detection="""
model.update(backbone=dict(init_cfg=None))
train_cfg = dict(max_epochs=1)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
""",
    segmentation="""
model.update(pretrained=None)
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
default_hooks = dict(checkpoint=dict(interval=2))
""",
)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_four_methods_are_compared_after_a_kill(task, place):
    (place / 'configs').unlink()
    folder = place / 'configs' / task / 'my_data'
    shutil.copytree(ROOT / 'configs' / task / 'my_data', folder)
    for path in folder.glob('*.py'):
        text = re.sub("checkpoint='[^']+'", 'checkpoint=None', path.read_text())
        text = re.sub(r'(scale|crop_size|size)=\(\d+, \d+\)', r'\1=(128, 128)', text)
        path.write_text(text)
    (student,) = [
        path
        for path in folder.glob('*_my-data.py')
        if path.name.split('_')[0] in STOCK and 'r101' not in path.name
    ]
    student.write_text(student.read_text() + EDITS[task])
    page = (ROOT / 'docs/own_data.md').read_text()
    (line,) = [x for x in page.splitlines() if f'configs/{task}/' in x and 'compare.py' in x]
    line = line.replace('python tools/', f'exec {sys.executable} {ROOT}/tools/') + ' --jobs 2'
    settings = dict(
        cwd=place, env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    )
    out = place / shlex.split(line)[shlex.split(line).index('--out') + 1]
    first = subprocess.Popen(['bash', '-c', line], **settings)
    while not list(out.glob('*_seed0.json')):
        assert first.poll() is None
        time.sleep(0.5)
    first.terminate()
    first.wait()
    done = {path.name: path.stat().st_mtime for path in out.glob('*_seed*.json')}
    assert 1 <= len(done) < 12
    again = subprocess.run(['bash', '-c', line], capture_output=True, text=True, **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    results = list(out.glob('*_seed*.json'))
    assert len(results) == 12
    assert {name: (out / name).stat().st_mtime for name in done} == done
    page = (out / 'report.html').read_text()
    assert all(path.stem.rpartition('_')[0] in page for path in results)
