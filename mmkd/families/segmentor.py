"""mmseg's encoder-decoders whose head returns one map (FCN, PSP, DeepLab, SegFormer, UPer, OCR)."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.backbones import BEiT
from mmseg.models.decode_heads import LRASPPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmkd.registry import FAMILIES

from .cells import pixel_scores
from .family import Family, Predictions, replaced
from .segmentor_criterion import SegmentorCriterion

_LARGE_SIDE = 512


@FAMILIES.register_module()
class Segmentor(Family):
    """mmseg's segmentors; final predictions are the last decode head's logits ``[B, K, h, w]``."""

    specificity = 1
    predicts_pixels = True
    gives = frozenset({'canvas', 'label', 'num_classes', 'scores'})

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        return isinstance(model, BaseSegmentor)

    def head(self, model: nn.Module) -> nn.Module | None:
        """The decode head whose map is the model's prediction: a cascade's last."""
        head = getattr(model, 'decode_head', None)
        return head[-1] if isinstance(head, nn.ModuleList) else head

    def dummy_batch(self, model, device):
        size = (self.dry_run_side, self.dry_run_side)
        if isinstance(getattr(model, 'backbone', None), BEiT):
            size = tuple(model.backbone.img_size)  # BEiT and MAE learn positions for one size only
        elif isinstance(self.head(model), LRASPPHead):
            size = (_LARGE_SIDE, _LARGE_SIDE)  # it pools windows of 49 cells of stride 8
        inputs = torch.randn(2, 3, *size, device=device)
        meta = dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            scale_factor=(1.0, 1.0),
            padding_size=[0, 0, 0, 0],
            flip=False,
        )
        samples = []
        for _ in range(2):
            label = torch.zeros(1, *size, dtype=torch.long, device=device)
            sample = SegDataSample(metainfo=dict(meta))
            sample.gt_sem_seg = PixelData(data=label)
            sample.gt_edge_map = PixelData(data=label.clone())
            samples.append(sample)
        return inputs, samples

    def forward(self, model, inputs, data_samples):
        features = model.extract_feat(inputs)
        if self.why_no_logits(model):
            return Predictions()
        heads = model.decode_head
        if not isinstance(heads, nn.ModuleList):
            return Predictions(outputs=dict(seg=[heads.forward(features)]))
        logits = heads[0].forward(features)
        for head in heads[1:]:
            logits = head.forward(features, logits)
        return Predictions(outputs=dict(seg=[logits]))

    @contextmanager
    def listen(self, model):
        predictions = Predictions()
        head = self.head(model)
        if head is None or self.why_no_logits(model):
            yield predictions
            return
        with self.listen_to_head(head, predictions):
            yield predictions

    @contextmanager
    def listen_to_head(self, head: nn.Module, predictions: Predictions):
        """Fills ``predictions`` with what reaches this decode head's ``loss_by_feat``."""
        stock = head.loss_by_feat

        def loss_by_feat(logits, data_samples, *args, **kwargs):
            predictions.outputs = dict(seg=[logits])
            predictions.context = (data_samples,)
            return stock(logits, data_samples, *args, **kwargs)

        with replaced(head, loss_by_feat=loss_by_feat):
            yield

    def is_head(self, module: nn.Module) -> bool:
        """Whether a module is a decode head, which predicts by itself."""
        return isinstance(module, BaseDecodeHead)

    def why_no_logits(self, model):
        head = self.head(model)
        if not isinstance(head, BaseDecodeHead):
            return f'{self.kind} has no decode head'
        if type(head).loss_by_feat is not BaseDecodeHead.loss_by_feat:
            return f'{type(head).__name__} does not predict one map of class logits'
        return None

    def num_classes(self, model):
        return self.head(model).num_classes

    def rename_classes(self, samples, match):
        if match.theirs is None:
            return samples
        ours = match.ours or range(len(match.theirs))
        for sample in samples:
            logits = sample.seg_logits.data
            best = match.teacher(logits, dim=0).argmax(0, keepdim=True)
            sample.pred_sem_seg = PixelData(data=best.new_tensor(list(ours))[best])
        return samples

    def check_pair(self, student, teacher, teacher_family):
        if not teacher_family.predicts_pixels:
            return f'the student is a segmentor, the teacher {teacher_family.kind} is not'
        heads = self.head(student), teacher_family.head(teacher)
        ours, theirs = (getattr(head, 'out_channels', None) for head in heads)
        if (ours == 1) != (theirs == 1):
            return (
                f'one head is binary with a single map, the other is not (student out_channels='
                f'{ours}, teacher out_channels={theirs}); give both the same out_channels'
            )
        return None

    def criterion(self, student, teacher, losses):
        head = self.head(student)
        return SegmentorCriterion(head.out_channels == 1, head.align_corners, losses)

    def branch_style(self, head: nn.Module, width: int | None) -> tuple[int, dict | None]:
        """Width and norm of an early branch beside this head; ``None``: of the head's width."""
        return width or head.channels, head.norm_cfg

    def ground_truth_losses(self, head, outputs, predictions):
        # BaseDecodeHead.loss_by_feat without its accuracy, which costs more than the loss.
        logits, labels = self.at_labels(head, outputs, predictions)
        weight = None
        if head.sampler is not None:
            weight = head.sampler.sample(logits, labels[:, None])
        losses = {}
        parts = head.loss_decode
        for part in parts if isinstance(parts, nn.ModuleList) else [parts]:
            value = part(logits, labels, weight=weight, ignore_index=head.ignore_index)
            losses[part.loss_name] = losses.get(part.loss_name, 0.0) + value
        return losses

    def at_labels(self, head: nn.Module, outputs: dict, predictions) -> tuple[Tensor, Tensor]:
        """Logits ``[B, K, H, W]`` at the size of the labels, and these ``[B, H, W]``."""
        labels = torch.stack([sample.gt_sem_seg.data for sample in predictions.context[0]])
        logits = resize(
            outputs['seg'][0],
            size=labels.shape[2:],
            mode='bilinear',
            align_corners=head.align_corners,
        )
        return logits, labels.squeeze(1)

    def cell_labels(self, model, size, data_samples):
        labels = self._nearest_labels(size, data_samples)
        return labels.masked_fill(self._ignored(model, labels), -1)[:, 0]

    def score_maps(self, model, outputs):
        return [pixel_scores(outputs['seg'][0])]

    def valid_cells(self, model, size, inputs, data_samples):
        if not all('gt_sem_seg' in sample for sample in data_samples):
            return self._inside(size, inputs, data_samples)
        return ~self._ignored(model, self._nearest_labels(size, data_samples))

    def _inside(self, size, inputs: Tensor, data_samples: list) -> Tensor:
        """Cells that begin inside their image: all that is known where there are no labels."""
        starts = [
            torch.arange(cells, device=inputs.device) * (pixels / cells)
            for cells, pixels in zip(size, inputs.shape[-2:])
        ]
        masks = []
        for sample in data_samples:
            rows, columns = (x < end for x, end in zip(starts, sample.img_shape))
            masks.append(rows[:, None] & columns[None])
        return torch.stack(masks)[:, None]

    def _nearest_labels(self, size, data_samples: list) -> Tensor:
        labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples])
        return F.interpolate(labels.float(), size=tuple(size), mode='nearest').long()

    def _ignored(self, model, labels: Tensor) -> Tensor:
        ignored = torch.zeros_like(labels, dtype=torch.bool)
        for value in {getattr(self.head(model), 'ignore_index', 255), _label_padding(model)}:
            ignored |= labels == value
        return ignored


def _label_padding(model: nn.Module) -> int:
    value: int | Tensor | None = getattr(model.data_preprocessor, 'seg_pad_val', None)
    return 255 if value is None else int(value)
