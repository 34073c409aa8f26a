"""What docs/own_data.md tells a reader to type, on a few images of noise and random teachers."""

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SIDE = 128  # pixels
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
    return [line for line in lines if f'configs/{task}/' in line]


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
