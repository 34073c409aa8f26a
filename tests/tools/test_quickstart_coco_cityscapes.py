"""docs/quickstart_coco_cityscapes.md, on folders of a few images laid out as it says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

import mmkd  # noqa: F401  makes `mmseg::...` known to config files

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/quickstart_coco_cityscapes.md'
COCO = 'configs/detection/coco/kd-ds_retinanet_r101_r18_fpn_1x_coco.py'
CITYSCAPES = (
    'configs/segmentation/cityscapes/kd-ds_pspnet_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'
)
LOADERS = ('train', 'val', 'test')
RESIZED = [f'{x}_dataloader.dataset.pipeline.{i}.scale' for x, i in zip(LOADERS, (2, 1, 1))]
# Random weights, small images, and no processes for the data.
SMALL = [f'{x}_dataloader.num_workers=0' for x in LOADERS]
SMALL += [f'{x}_dataloader.persistent_workers=False' for x in LOADERS]
SMALL += ['model.teacher.checkpoint=None']
OWN = {
    COCO: [
        'model.student.backbone.init_cfg=None', 'train_dataloader.dataset.indices=4',
        *(f'{x}=(128,128)' for x in RESIZED),
    ],
    CITYSCAPES: [
        'model.student.pretrained=None', 'model.student.data_preprocessor.size=(128,128)',
        'train_dataloader.dataset.pipeline.3.crop_size=(128,128)', 'train_cfg.max_iters=2',
        'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2',
        *(f'{x}=(256,128)' for x in RESIZED),
    ],
}  # fmt: skip


def lines() -> list[str]:
    blocks = re.findall(r'```bash\n(.*?)```', PAGE.read_text(), flags=re.S)
    return [line for block in blocks for line in block.splitlines()]


def is_run(line: str) -> bool:
    """Whether the tests below type this line."""
    return 'work_dirs/try_' in line or ('list_taps' in line and 'checkpoint=None' in line)


def write_coco(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        images, boxes = [], []
        for i in range(8):
            picture = rng.integers(0, 255, (96, 128, 3)).astype(np.uint8)
            cv2.imwrite(str(root / split / f'{i:012}.jpg'), picture)
            images.append(dict(id=i, file_name=f'{i:012}.jpg', width=128, height=96))
            box = dict(bbox=[10, 10, 60, 60], area=3600, iscrowd=0, category_id=17)
            boxes.append(dict(id=i + 1, image_id=i, **box))
        names = [dict(id=i, name=name) for i, name in enumerate(CocoDataset.METAINFO['classes'], 1)]
        coco = dict(images=images, annotations=boxes, categories=names)
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(coco))


def write_cityscapes(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        folders = [root / kind / split / 'ulm' for kind in ('leftImg8bit', 'gtFine')]
        for folder in folders:
            folder.mkdir(parents=True)
        for i in range(4):
            stem = f'ulm_{i:06}_000019'
            picture = rng.integers(0, 255, (128, 256, 3)).astype(np.uint8)
            label = np.full((128, 256), 13, np.uint8)  # cars
            label[:64], label[:8] = 10, 255  # sky, and a strip that is ignored
            cv2.imwrite(str(folders[0] / f'{stem}_leftImg8bit.png'), picture)
            cv2.imwrite(str(folders[1] / f'{stem}_gtFine_labelTrainIds.png'), label)


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder like a fresh clone, with data where the page says."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('configs', 'tools', 'mmkd'):
        (folder / name).symlink_to(ROOT / name)
    write_coco(folder / 'data/coco')
    write_cityscapes(folder / 'data/cityscapes')
    return folder


def test_every_line_is_typed_here_or_says_what_it_needs():
    assert sum(map(is_run, lines())) == 8
    rest = [line for line in lines() if not is_run(line) and ' # needs ' not in line]
    assert len(rest) == 1 and rest[0].startswith('echo "_base_ = \'mmdet::retinanet/')
    for path in re.findall(r'configs/\S+\.py', PAGE.read_text()):
        assert (ROOT / path).is_file(), path
    for script in re.findall(r'tools/\w+\.(?:py|sh)', '\n'.join(lines())):
        assert (ROOT / script).is_file(), script


def test_configs_read_the_folders_of_the_page(place, monkeypatch):
    monkeypatch.chdir(place)
    classes = set(range(19)) | {255}
    for config, count in ((COCO, 8), (CITYSCAPES, 4)):
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        for split in LOADERS:
            dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
            assert len(dataset) == count
            sample = dataset[0]['data_samples']
            if config == COCO:
                assert sample.gt_instances.labels.tolist() == [16]  # a dog
            else:
                found = set(sample.gt_sem_seg.data.unique().tolist())
                assert found & {10, 13} and found <= classes


def test_the_baselines_config_of_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in lines() if line.startswith('echo')]
    subprocess.run(['bash', '-c', line], check=True)
    stock = Config.fromfile('retinanet_r18.py')
    assert stock.model.to_dict() == Config.fromfile(ROOT / COCO).model.student.to_dict()


@pytest.mark.slow
def test_the_short_runs_from_data_to_export(place):
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    for line in filter(is_run, lines()):
        words = shlex.split(line.split(' # ')[0].replace('iter_8.pth', 'iter_2.pth'))
        if words[1].endswith(('train.py', 'test.py')):
            own = [*SMALL, *OWN[words[2]]]
            words += [] if '--cfg-options' in words else ['--cfg-options']
            words += own
        words[0] = sys.executable
        done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f'{shlex.join(words)}\n{said[-3000:]}'
        tool = Path(words[1]).stem
        if tool == 'train':
            shared = '80 shared classes: person' if COCO in words else '19 shared classes: road'
            assert shared in said and 'Saving checkpoint' in said
        wanted = dict(list_taps='backbone', test='(test)', export_student='bit-identical')
        assert tool == 'train' or wanted[tool] in said
    assert {p.name for p in (place / 'exported').iterdir()} == {
        'retinanet_r18.pth', 'retinanet_r18.py', 'pspnet_r18.pth', 'pspnet_r18.py',
    }  # fmt: skip
