"""What each of two processes does; run by torch.distributed.run, read by test_two_processes.py."""

import json
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

import mmkd  # noqa: F401  makes the scope known
from mmkd.families.family import Family
from mmkd.registry import MODELS

MMLogger.get_instance('worker', log_level='ERROR')  # initialisation logs every parameter
SIDE = 64
CLASSES = ('red', 'green', 'blue')
MODEL_KINDS = ('retinanet', 'fcos', 'atss', 'gfl', 'faster-rcnn', 'fcn')
# Images of a batch of four by what is in them; the first two go to rank 0.
LAYOUTS = dict(mixed='pfep', lonely='fpee')

_SIGMOID = dict(use_sigmoid=True, loss_weight=1.0)
_ONE_ANCHOR = dict(
    type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1,
    strides=[8, 16, 32, 64, 128],
)  # fmt: skip
_NORM = dict(type='GN', num_groups=4)
_CODER = dict(type='DeltaXYWHBBoxCoder')
_HEADS = dict(
    retinanet=dict(
        type='RetinaHead', anchor_generator=_ONE_ANCHOR, bbox_coder=_CODER,
        loss_cls=dict(type='FocalLoss', **_SIGMOID), loss_bbox=dict(type='L1Loss'),
    ),
    fcos=dict(
        type='FCOSHead', norm_cfg=_NORM, strides=[8, 16, 32, 64, 128],
        regress_ranges=((-1, 16), (16, 32), (32, 64), (64, 128), (128, 1e8)),
        loss_cls=dict(type='FocalLoss', **_SIGMOID), loss_bbox=dict(type='IoULoss'),
        loss_centerness=dict(type='CrossEntropyLoss', **_SIGMOID),
    ),
    atss=dict(
        type='ATSSHead', norm_cfg=_NORM, anchor_generator=_ONE_ANCHOR, bbox_coder=_CODER,
        loss_cls=dict(type='FocalLoss', **_SIGMOID), loss_bbox=dict(type='GIoULoss'),
        loss_centerness=dict(type='CrossEntropyLoss', **_SIGMOID),
    ),
    gfl=dict(
        type='GFLHead', norm_cfg=_NORM, anchor_generator=_ONE_ANCHOR, reg_max=4,
        loss_cls=dict(type='QualityFocalLoss', beta=2.0, **_SIGMOID),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type='GIoULoss'),
    ),
)  # fmt: skip
_DETECTORS = dict(retinanet='RetinaNet', fcos='FCOS', atss='ATSS', gfl='GFL')
_IOU_ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)


def detector(kind: str, width: int) -> dict:
    """A detector of ``width`` base channels."""
    atss = dict(type='ATSSAssigner', topk=9)
    return dict(
        type=_DETECTORS[kind],
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(type='ResNet', depth=18, base_channels=width),
        neck=dict(
            type='FPN', in_channels=[width, 2 * width, 4 * width, 8 * width], num_outs=5,
            out_channels=2 * width, start_level=1, add_extra_convs='on_output',
        ),
        bbox_head=dict(
            _HEADS[kind], num_classes=3, in_channels=2 * width, feat_channels=2 * width,
            stacked_convs=1,
        ),
        train_cfg=dict(
            assigner=_IOU_ASSIGNER if kind == 'retinanet' else atss, allowed_border=-1,
            sampler=dict(type='PseudoSampler'), pos_weight=-1,
        ),
        test_cfg=dict(nms_pre=100, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5)),
    )  # fmt: skip


def two_stage(width: int) -> ConfigDict:
    """A Faster R-CNN of ``width`` base channels whose sampler leaves no proposal out."""
    base, strides = detector('retinanet', width), [8, 16, 32, 64]
    sampler = dict(type='RandomSampler', num=1000, pos_fraction=0.5)
    proposals = dict(nms_pre=50, max_per_img=20, nms=base['test_cfg']['nms'], min_bbox_size=0)
    cls = dict(type='CrossEntropyLoss')
    train = dict(assigner=dict(_IOU_ASSIGNER, neg_iou_thr=0.5), pos_weight=-1)
    cfg = dict(
        type='FasterRCNN',
        **{key: base[key] for key in ('data_preprocessor', 'backbone', 'neck')},
        rpn_head=dict(
            type='RPNHead', in_channels=2 * width, feat_channels=2 * width, bbox_coder=_CODER,
            # mmdet's RPN fails on a level of one anchor in all
            anchor_generator=dict(_ONE_ANCHOR, ratios=[0.5, 1.0]), loss_bbox=dict(type='L1Loss'),
            loss_cls=dict(type='CrossEntropyLoss', **_SIGMOID),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor', out_channels=2 * width, featmap_strides=strides,
                roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0),
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead', in_channels=2 * width, fc_out_channels=2 * width,
                roi_feat_size=3, num_classes=3, loss_cls=cls, loss_bbox=dict(type='L1Loss'),
            ),
        ),
        train_cfg=dict(
            rpn=dict(train, sampler=dict(sampler, add_gt_as_proposals=False), allowed_border=-1),
            rpn_proposal=proposals,
            rcnn=dict(train, sampler=sampler),
        ),
        test_cfg=dict(rpn=proposals, rcnn=dict(score_thr=0.05, nms=proposals['nms'])),
    )  # fmt: skip
    return ConfigDict(cfg)  # its class reads it by attributes


def segmentor(width: int) -> dict:
    """An FCN of ``width`` base channels on stages of stride 4 and 8."""
    head = dict(
        type='FCNHead', num_convs=1, dropout_ratio=0.0, num_classes=3,
        norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss'),
    )  # fmt: skip
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(SIDE, SIDE)),
        backbone=dict(
            type='ResNetV1c', depth=18, base_channels=width, stem_channels=width,
            strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(head, in_channels=8 * width, in_index=3, channels=2 * width),
        auxiliary_head=dict(head, in_channels=4 * width, in_index=2, channels=width),
        train_cfg=dict(), test_cfg=dict(mode='whole'),
    )  # fmt: skip


def config(kind: str, **settings) -> dict:
    """A distillation with every kind of term and exit; ``settings`` go into each of them."""
    # The default PKDLoss standardises over the batch of one process, so it is not compared here.
    feature_too = dict(feat=0.5, feat_loss=dict(type='FeatureMSE'))
    if kind == 'fcn':
        student, teacher, tap = segmentor(8), segmentor(12), 'backbone[2:]'
        seg = dict(type='SegExit', dropout=0.0)
        exits = dict(
            early=dict(seg, tap='backbone[1:3]', **feature_too, **settings),
            own=dict(seg, tap='auxiliary_head', gt=0.0, kd=1.0, **settings),
            balanced=dict(seg, tap='backbone[0:2]', balance='loss', **settings),
        )
    elif kind == 'faster-rcnn':
        student, teacher, tap = two_stage(8), two_stage(12), 'neck[0:3]'
        # the stock box head divides what the labels teach by its own rank's RoIs
        early = dict(type='RoIExit', tap='backbone[1:]', gt=0.0, kd=1.0, **feature_too)
        exits = dict(early=dict(early, **settings))
    else:
        student, teacher, tap = detector(kind, 8), detector(kind, 12), 'neck[0:3]'
        exits = dict(
            early=dict(type='DenseExit', tap='backbone[1:]', **settings),
            late=dict(type='DenseExit', tap='neck', **feature_too, **settings),
            cells=dict(type='SemanticExit', tap='backbone', **settings),
        )
    feature = dict(type='FeatureKD', tap=tap, **settings)
    return dict(
        type='mmkd.Distiller',
        student=student,
        teacher=dict(config=teacher, checkpoint=None, classes='same'),
        terms=dict(
            kd=dict(type='LogitKD', **settings),
            mse=dict(feature, loss=dict(type='FeatureMSE')),
            cwd=dict(feature, loss=dict(type='ChannelWiseDivergence')),
        ),
        exits=exits,
    )


def build(kind: str, **settings) -> nn.Module:
    """The same distilled student in every process, its norm layers in eval mode."""
    init_default_scope('mmseg' if kind == 'fcn' else 'mmdet')
    torch.manual_seed(0)
    # the size of the dry run's images counts: initial weights are drawn after them
    with mock.patch.object(Family, 'dry_run_side', 256):
        model = MODELS.build(config(kind, **settings))
    model.init_weights()
    model.distillation.start(CLASSES)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    for name, parameter in model.distillation.named_parameters():
        if name.endswith('branch.gfl_cls.bias'):
            # mmdet clamps the sum of positives' scores at 1 on each rank: below, it is not exact
            nn.init.zeros_(parameter)
    return model


def batch(kind: str, layout: str, images: slice) -> tuple[torch.Tensor, list]:
    """Images of a layout: ``f`` full of objects, ``p`` partly ignored and padded, ``e`` empty."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 3, SIDE, SIDE, generator=generator)
    make = _label_map if kind == 'fcn' else _boxes
    samples = [make(content, generator) for content in LAYOUTS[layout]]
    return inputs[images], samples[images]


def _label_map(content: str, generator) -> SegDataSample:
    labels = torch.randint(0, 3, (1, 8, 8), generator=generator)
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    if content == 'e':
        labels[:] = 255
    if content == 'p':
        labels[:, :, 24:] = 255
    shape = (SIDE, SIDE)
    sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _boxes(content: str, generator) -> DetDataSample:
    shape = (48, SIDE) if content == 'p' else (SIDE, SIDE)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=shape, ori_shape=shape, pad_shape=(SIDE, SIDE),
            batch_input_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0),
        )
    )  # fmt: skip
    boxes = torch.tensor([[2.0, 3, 35, 36], [30, 8, 60, 40], [4, 4, 18, 20]])
    boxes = boxes[: dict(f=3, p=1, e=0)[content]]
    labels = torch.randint(0, 3, (len(boxes),), generator=generator)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    ignored = torch.tensor([[32.0, 0, 64, 32]])[: int(content == 'p')]
    zeros = torch.zeros(len(ignored), dtype=torch.long)
    sample.ignored_instances = InstanceData(bboxes=ignored, labels=zeros)
    return sample


def gradients(kind: str, layout: str, images: slice, model: nn.Module, wrapper=None) -> dict:
    """Gradient of every term and exit alone, by its name, then by parameter.

    Args:
        kind: of the model.
        layout: of the batch.
        images: which of the four this process sees.
        model: a distilled student.
        wrapper: what is called instead of it.
    """
    model.distillation.iteration = 1000
    found = {}
    for part in model.distillation.parts:
        model.zero_grad(set_to_none=True)
        losses = (wrapper or model)(*batch(kind, layout, images), mode='loss')
        total = 0.0
        for name, value in losses.items():
            value = sum(value) if isinstance(value, list) else value
            if 'loss' in name:  # what is not asked for stays in the graph, as in any DDP step
                total = total + value * float(name.startswith(f'{part.name}.'))
        total.backward()
        found[part.name] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
    return found


SWITCHES = dict(
    on=dict(schedule=dict(warmup=0)),
    off=dict(weight=0.0),
    ends=dict(schedule=dict(warmup=0, end=2)),
    begins=dict(schedule=dict(warmup=0, begin=2)),
)


def train(kind: str, switch: str, rank: int) -> dict:
    """Four steps without ``find_unused_parameters``; what came of them."""
    model = build(kind, **SWITCHES[switch])
    wrapper = _wrap(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = OptimWrapper(torch.optim.SGD(trained, lr=1e-3))
    inputs, samples = batch(kind, 'mixed', slice(2 * rank, 2 * rank + 2))
    added = []
    for iteration in range(4):
        model.distillation.iteration = iteration
        losses = wrapper(inputs, samples, mode='loss')
        total, logs = model.parse_losses(losses)
        optimizer.update_params(total)
        names = {part.name for part in model.distillation.parts}
        added.append(sum(float(v) for k, v in logs.items() if k.split('.')[0] in names))
    return dict(added=added, apart=_apart(model), extra=len(list(model.distillation.parameters())))


def _wrap(model: nn.Module) -> nn.Module:
    return MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)


def _apart(model: nn.Module) -> float:
    """The largest difference between the two ranks' parameters."""
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    return float((both[0] - both[1]).abs().max())


def main(folder: Path) -> None:
    """Everything at once, as starting processes takes longer than the work."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    found = {}
    for kind in MODEL_KINDS:
        model = build(kind)
        wrapper = _wrap(model)
        for layout in LAYOUTS:
            images = slice(2 * rank, 2 * rank + 2)
            found[f'{kind}-{layout}'] = gradients(kind, layout, images, model, wrapper)
    runs = {
        f'{kind}-{switch}': train(kind, switch, rank)
        for kind in ('retinanet', 'fcn')
        for switch in SWITCHES
    }
    if rank == 0:
        torch.save(found, folder / 'gradients.pth')
        (folder / 'runs.json').write_text(json.dumps(runs))
    dist.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
