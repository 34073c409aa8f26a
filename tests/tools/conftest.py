"""Toy data and toy stock configs on which the tools run as a user runs them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

RUNTIME = """
work_dir = None
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
randomness = dict(seed=0)
log_processor = dict(by_epoch=False, window_size=1)
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1,
    log_metric_by_epoch=False), param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
preprocessor = dict(mean=[120.0] * 3, std=[60.0] * 3, pad_size_divisor=32)
"""

DETECTION = """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', **preprocessor),
    backbone=dict(type='ResNet', depth=18, base_channels=4, norm_cfg=dict(type='NORM')),
    neck=dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8, start_level=1,
              add_extra_convs='on_input', num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, stacked_convs=1, feat_channels=8,
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1,
                              ratios=[1.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4,
                                 min_pos_iou=0, ignore_iof_thr=-1),
                   sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0,
                  nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='PackDetInputs', meta_keys=keys)]
dataset = dict(type='CocoDataset', data_root='DATA', ann_file='boxes.json',
               metainfo=dict(classes=('red', 'blue')), data_prefix=dict(img='images/'),
               pipeline=pipeline)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='InfiniteSampler', shuffle=True))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(test_mode=True, **dataset),
                      sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='DATA/boxes.json', metric='bbox')
test_evaluator = val_evaluator
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
default_hooks.update(visualization=dict(type='DetVisualizationHook'))
"""

SEGMENTATION = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64), mean=[120.0] * 3,
                           std=[60.0] * 3),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=4, stem_channels=4,
                  norm_cfg=dict(type='BN')),
    decode_head=dict(type='FCNHead', in_channels=32, in_index=3, channels=8, num_convs=1,
                     num_classes=2, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
dataset = dict(type='BaseSegDataset', data_root='DATA', img_suffix='.png', seg_map_suffix='.png',
               metainfo=dict(classes=('rest', 'thing'), palette=[[0, 0, 0], [255, 0, 0]]),
               data_prefix=dict(img_path='images', seg_map_path='masks'), pipeline=pipeline)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='InfiniteSampler', shuffle=True))
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dataset,
                      sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
default_hooks.update(visualization=dict(type='SegVisualizationHook', interval=1))
"""


@pytest.fixture(scope='session')
def run_tool():
    """A function that runs a tool as a process; with ``check`` a failure shows what it printed."""

    def run(name: str, *args, check: bool = True) -> subprocess.CompletedProcess:
        start = ['bash'] if name.endswith('.sh') else [sys.executable]
        command = [*start, str(ROOT / 'tools' / name), *map(str, args)]
        settings = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable)
        environment = {**os.environ, **settings}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    return run


@pytest.fixture
def load_tool(monkeypatch):
    """A function that imports a tool under a name of its own (``test`` is Python's)."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))

    def load(name: str):
        if name.startswith('_'):
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / f'tools/{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory) -> Path:
    """Four 64x64 pictures of noise with one bright box each, as COCO JSON and as masks."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (root / folder).mkdir()
    images, boxes = [], []
    for i in range(4):
        x, y = (int(v) for v in rng.integers(0, 32, 2))
        picture = rng.integers(0, 100, (64, 64, 3)).astype(np.uint8)
        picture[y : y + 32, x : x + 32, i % 2] = 255
        mask = np.zeros((64, 64), np.uint8)
        mask[y : y + 32, x : x + 32] = 1
        cv2.imwrite(str(root / 'images' / f'{i}.png'), picture)
        cv2.imwrite(str(root / 'masks' / f'{i}.png'), mask)
        images.append(dict(id=i, file_name=f'{i}.png', width=64, height=64))
        box = dict(bbox=[x, y, 32, 32], area=1024, iscrowd=0)
        boxes.append(dict(id=i + 1, image_id=i, category_id=i % 2, **box))
    categories = [dict(id=0, name='red'), dict(id=1, name='blue')]
    coco = dict(images=images, annotations=boxes, categories=categories)
    (root / 'boxes.json').write_text(json.dumps(coco))
    return root


@pytest.fixture
def write_config(tmp_path, toy_data):
    """A function that writes a toy config (``'det'`` or ``'seg'``) and returns its path."""

    def write(kind: str, name: str = 'toy', norm: str = 'BN', extra: str = '') -> Path:
        body = DETECTION if kind == 'det' else SEGMENTATION
        text = RUNTIME + body.replace('DATA', str(toy_data)).replace('NORM', norm) + extra
        path = tmp_path / f'{name}.py'
        path.write_text(text)
        return path

    return write
