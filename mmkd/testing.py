"""A tiny teacher, student, batch and run on real mmdet and mmseg models: a step in about 50 ms.

    root = write_toy_data('data/toy')
    runner, losses = train(toy_config('det', root, 'work_dirs/toy', toy_distiller('det')))

Everything is a config of stock mmdet (``kind='det'``) or mmseg (``kind='seg'``), so a library is
only imported where its kind is used.
"""

import json
import uuid
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkd.families import find_family

SIDE = 64  # pixels
CLASSES = dict(det=('red', 'blue'), seg=('rest', 'red', 'blue'))
KD = dict(type='LogitKD')
TERMS = dict(
    det=dict(kd=KD, feature=dict(type='FeatureKD', tap='neck[0:2]')),
    seg=dict(kd=KD, feature=dict(type='FeatureKD', tap='backbone[2:4]')),
)
EXITS = dict(
    det=dict(stages=dict(type='DenseExit', tap='backbone[1:]', schedule=dict(warmup=3))),
    seg=dict(stages=dict(type='SegExit', tap='backbone[1:3]', schedule=dict(warmup=3))),
)


def write_toy_data(root, count: int = 8) -> Path:
    """Writes 64x64 pictures of noise with one bright box each, as COCO JSON and as masks.

    Returns:
        the folder: ``images/``, ``masks/`` (0 the rest, 1 and 2 the boxes), ``boxes.json``.
    """
    root = Path(root)
    rng = np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images, boxes = [], []
    for i in range(count):
        x, y = (int(v) for v in rng.integers(0, SIDE // 2, 2))
        picture = rng.integers(0, 100, (SIDE, SIDE, 3)).astype(np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        picture[y : y + 32, x : x + 32, 2 * (1 - i % 2)] = 255  # OpenCV writes blue, green, red
        mask[y : y + 32, x : x + 32] = 1 + i % 2
        cv2.imwrite(str(root / 'images' / f'{i}.png'), picture)
        cv2.imwrite(str(root / 'masks' / f'{i}.png'), mask)
        images.append(dict(id=i, file_name=f'{i}.png', width=SIDE, height=SIDE))
        box = dict(bbox=[x, y, 32, 32], area=1024, iscrowd=0)
        boxes.append(dict(id=i + 1, image_id=i, category_id=i % 2, **box))
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES['det'])]
    coco = dict(images=images, annotations=boxes, categories=categories)
    (root / 'boxes.json').write_text(json.dumps(coco))
    return root


def toy_model(kind: str, width: int = 4) -> ConfigDict:
    """The config of a stock RetinaNet-R18 (``'det'``) or FCN-R18 (``'seg'``), ``width`` at C2."""
    channels = [width * n for n in (1, 2, 4, 8)]
    pixels = dict(mean=[120.0] * 3, std=[60.0] * 3)
    backbone = dict(depth=18, base_channels=width, norm_cfg=dict(type='BN'))
    if kind == 'det':
        model = dict(
            _scope_='mmdet',
            type='RetinaNet',
            data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32, **pixels),
            backbone=dict(type='ResNet', **backbone),
            **_retina(channels, 2 * width),
        )
    else:
        head = dict(num_classes=3, channels=2 * width, num_convs=1, norm_cfg=dict(type='BN'))
        model = dict(
            _scope_='mmseg',
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(SIDE, SIDE), **pixels),
            backbone=dict(type='ResNetV1c', stem_channels=width, **backbone),
            decode_head=dict(type='FCNHead', in_channels=channels[3], in_index=3, **head),
            auxiliary_head=dict(type='FCNHead', in_channels=channels[2], in_index=2, **head),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
    return ConfigDict(model)


def _retina(channels: list[int], width: int) -> dict:
    anchors = dict(octave_base_scale=4, scales_per_octave=1, ratios=[1.0])
    assigner = dict(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
    pyramid = dict(start_level=1, add_extra_convs='on_input', num_outs=5)
    nms = dict(type='nms', iou_threshold=0.5)
    return dict(
        neck=dict(type='FPN', in_channels=channels, out_channels=width, **pyramid),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=width,
            stacked_convs=1,
            feat_channels=width,
            anchor_generator=dict(type='AnchorGenerator', strides=[8, 16, 32, 64, 128], **anchors),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss'),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', **assigner),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=nms, max_per_img=10),
    )


def toy_distiller(kind: str, off: bool = False, **changes) -> dict:
    """The config of a toy student taught by one twice as wide, by :data:`TERMS`, :data:`EXITS`.

    Args:
        kind: ``'det'`` or ``'seg'``.
        off: whether all weights are 0.
        **changes: keys of ``mmkd.Distiller`` to replace.
    """
    cfg = dict(
        type='mmkd.Distiller',
        student=toy_model(kind),
        teacher=dict(config=toy_model(kind, width=8), checkpoint=None, classes='same'),
        terms=TERMS[kind],
        exits=EXITS[kind],
    )
    cfg.update(changes)
    for group in ('terms', 'exits') if off else ():
        cfg[group] = {name: dict(part, weight=0) for name, part in cfg[group].items()}
    return cfg


def toy_batch(model: nn.Module) -> tuple[Tensor, list]:
    """A synthetic batch for ``model.loss``: images ``[2, 3, 64, 64]`` and their samples."""
    family = find_family(model)
    family.dry_run_side = SIDE
    return family.dummy_batch(model, 'cpu')


def toy_config(
    kind: str, root, work_dir, model: dict | None = None, iters: int = 20, *, flip: bool = True,
    by_epoch: bool = False, val_interval: int | None = None, save_interval: int = -1,
    ema: dict | None = None, **changes,
) -> Config:  # fmt: skip
    """A whole run: SGD with momentum, weight decay and gradient clipping at a batch of 2.

    Args:
        kind: ``'det'`` or ``'seg'``.
        root: where :func:`write_toy_data` wrote.
        work_dir: where the run writes.
        model: the model's config; ``None``: the stock toy student.
        iters: its length in iterations; under ``by_epoch`` in epochs, of 4 iterations.
        flip: whether pictures are flipped at random.
        by_epoch: whether mmengine's epoch-based loop runs it.
        val_interval: iterations (epochs) between validations; ``None``: no validation.
        save_interval: iterations (epochs) between checkpoints; -1: none.
        ema: arguments of an ``EMAHook``.
        **changes: top-level keys to replace.
    """
    model = model or toy_model(kind)
    hooks = dict(
        checkpoint=dict(
            type='CheckpointHook', interval=save_interval, by_epoch=by_epoch,
            save_last=save_interval > 0,
            save_best=('auto' if kind == 'det' else 'mIoU') if val_interval else None,
        ),
        logger=dict(type='LoggerHook', interval=1000, log_metric_by_epoch=by_epoch),
    )  # fmt: skip
    if model['type'] == 'mmkd.Distiller':
        hooks['distill'] = dict(type='mmkd.DistillHook', interval=2)
    length = dict(max_epochs=iters) if by_epoch else dict(max_iters=iters)
    loop = dict(type=f'{"Epoch" if by_epoch else "Iter"}BasedTrainLoop', **length)
    if val_interval:
        loop['val_interval'] = val_interval
    dataset = _dataset(kind, root, flip)
    shuffled = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    cfg = dict(
        default_scope=f'mm{kind}',
        experiment_name=uuid.uuid4().hex,  # else two runs within a second share a message hub
        work_dir=str(work_dir),
        randomness=dict(seed=3),
        model=model,
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=dataset, sampler=shuffled),
        train_cfg=loop,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-3),
            clip_grad=dict(max_norm=1.0),
        ),
        default_hooks=hooks,
        custom_hooks=[dict(type='EMAHook', momentum=0.1, **ema)] if ema is not None else [],
        log_level='WARNING',
        log_processor=dict(by_epoch=by_epoch, window_size=1),
    )
    if val_interval:
        metric = dict(type='CocoMetric', ann_file=str(Path(root) / 'boxes.json'), metric='bbox')
        cfg.update(
            val_cfg=dict(type='ValLoop'),
            val_dataloader=dict(
                batch_size=1, num_workers=0, dataset=_dataset(kind, root, flip=False, test=True),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            val_evaluator=metric if kind == 'det' else dict(type='IoUMetric', iou_metrics=['mIoU']),
        )  # fmt: skip
    cfg.update(changes)
    return Config(cfg, format_python_code=False)  # formatting takes as long as 20 steps


def _dataset(kind: str, root, flip: bool, test: bool = False) -> dict:
    flips = [dict(type='RandomFlip', prob=0.5)] if flip else []
    if kind == 'seg':
        load, pack = [dict(type='LoadAnnotations')], dict(type='PackSegInputs')
        places = dict(
            type='BaseSegDataset', img_suffix='.png', seg_map_suffix='.png',
            data_prefix=dict(img_path='images', seg_map_path='masks'),
        )  # fmt: skip
    else:
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        load = [
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(SIDE, SIDE), keep_ratio=True),
        ]
        pack = dict(type='PackDetInputs', meta_keys=keys)
        if flips:
            pack['meta_keys'] = (*keys, 'flip', 'flip_direction')
        places = dict(
            type='CocoDataset', ann_file='boxes.json', data_prefix=dict(img='images/'),
        )  # fmt: skip
    return dict(
        data_root=str(root),
        metainfo=dict(classes=CLASSES[kind]),
        test_mode=test,
        pipeline=[dict(type='LoadImageFromFile'), *load, *flips, pack],
        **places,
    )


class _Recorder(Hook):
    def __init__(self) -> None:
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append({k: torch.as_tensor(v).detach().clone() for k, v in outputs.items()})


def train(cfg: Config) -> tuple[Runner, list[dict[str, Tensor]]]:
    """Runs a config to its end in this process.

    Returns:
        the runner, and what each iteration logged.
    """
    runner = Runner.from_cfg(cfg)
    recorder = _Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder.losses


def run_state(runner: Runner) -> dict[str, Tensor]:
    """All that a run has learnt, by name: ``model.``, ``ema.`` and ``optimizer.`` entries.

    What belongs to the distillation has ``distillation.`` in its name.
    """
    model = runner.model
    state = _tensors('model', model)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            state.update(_tensors('ema', hook.ema_model.module))
            state['ema.steps'] = hook.ema_model.steps.clone()
    optimizer = runner.optim_wrapper.optimizer
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group['params']:
            entries = dict(optimizer.state.get(parameter, {}))
            entries.update(lr=group['lr'], weight_decay=group['weight_decay'])
            for key, value in entries.items():
                if value is not None:
                    value = torch.as_tensor(value).clone()
                    state[f'optimizer.{names[parameter]}.{key}'] = value
    return state


def _tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return {f'{prefix}.{name}': value.detach().clone() for name, value in named}


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names that only one of two states has, or whose tensors differ in any bit."""
    names = sorted(first.keys() | second.keys())
    both = first.keys() & second.keys()
    return [n for n in names if n not in both or not torch.equal(first[n], second[n])]
