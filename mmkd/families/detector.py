"""Any mmdet detector: its features; final predictions where a subclass knows them."""

import numpy as np
import torch
from mmdet.models.dense_heads import RTMDetHead, RTMDetInsHead
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmkd.registry import FAMILIES

from .family import Family


@FAMILIES.register_module()
class Detector(Family):
    """mmdet's detectors, feature distillation only."""

    gives = frozenset({'canvas', 'boxes'})

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        return isinstance(model, BaseDetector)

    def dummy_batch(self, model, device):
        side = self.dry_run_side
        inputs = torch.randn(2, 3, side, side, device=device)
        samples = []
        for index in range(2):
            sample = DetDataSample(
                metainfo=dict(
                    img_id=index,
                    img_shape=(side, side),
                    ori_shape=(side, side),
                    pad_shape=(side, side),
                    batch_input_shape=(side, side),
                    scale_factor=(1.0, 1.0),
                    flip=False,
                )
            )
            box = torch.tensor([[side * 0.25, side * 0.25, side * 0.6, side * 0.7]], device=device)
            sample.gt_instances = InstanceData(
                bboxes=box, labels=torch.zeros(1, dtype=torch.long, device=device)
            )
            if _takes_masks(model):
                mask = np.zeros((1, side, side), dtype=np.uint8)
                mask[:, side // 4 : side // 2, side // 4 : side // 2] = 1
                sample.gt_instances.masks = BitmapMasks(mask, side, side)
            sample.ignored_instances = InstanceData(
                bboxes=box.new_zeros(0, 4), labels=box.new_zeros(0, dtype=torch.long)
            )
            sample.gt_sem_seg = PixelData(
                sem_seg=torch.zeros(1, side, side, dtype=torch.long, device=device)
            )
            samples.append(sample)
        return inputs, samples

    def rename_classes(self, samples, match):
        if match.theirs is None:
            return samples
        number = dict(zip(match.theirs, match.ours or range(len(match.theirs))))
        for sample in samples:
            predicted = sample.pred_instances
            keep = [i for i, c in enumerate(predicted.labels.tolist()) if c in number]
            predicted = predicted[torch.tensor(keep, dtype=torch.long)]
            predicted.labels = predicted.labels.new_tensor(
                [number[c] for c in predicted.labels.tolist()]
            )
            sample.pred_instances = predicted
        return samples

    def boxes(self, data_samples):
        boxes = [sample.gt_instances.bboxes for sample in data_samples]
        return [getattr(x, 'tensor', x) for x in boxes]

    def valid_cells(self, model, size, inputs, data_samples):
        height, width = inputs.shape[-2:]
        ys = torch.arange(size[0], device=inputs.device) * (height / size[0])
        xs = torch.arange(size[1], device=inputs.device) * (width / size[1])
        # every rank passes a mask or none: losses count its cells together
        masks, whole = [], get_world_size() == 1
        for sample in data_samples:
            image_height, image_width = sample.img_shape[:2]
            ignored = getattr(sample, 'ignored_instances', None)
            boxes = ignored.bboxes if ignored is not None and 'bboxes' in ignored else ()
            mask = (ys < image_height)[:, None] & (xs < image_width)[None]
            whole &= image_height >= height and image_width >= width and not len(boxes)
            if len(boxes):
                boxes = getattr(boxes, 'tensor', boxes)
                cy = (ys + height / size[0] / 2)[None, :]
                cx = (xs + width / size[1] / 2)[None, :]
                in_rows = (cy >= boxes[:, 1:2]) & (cy <= boxes[:, 3:4])
                in_cols = (cx >= boxes[:, 0:1]) & (cx <= boxes[:, 2:3])
                mask = mask & ~(in_rows[:, :, None] & in_cols[:, None, :]).any(0)
            masks.append(mask)
        return None if whole else torch.stack(masks)[:, None]


def _takes_masks(model: nn.Module) -> bool:
    """Whether masks among the labels do no harm: RTMDet without masks expects none."""
    head = getattr(model, 'bbox_head', None)
    return not isinstance(head, RTMDetHead) or isinstance(head, RTMDetInsHead)
