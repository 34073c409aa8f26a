"""mmdet's query-based detectors: DETR, Conditional, DAB, Deformable, DINO."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from mmdet.models.dense_heads import (
    ConditionalDETRHead,
    DABDETRHead,
    DeformableDETRHead,
    DETRHead,
    DINOHead,
)
from mmdet.models.detectors import DINO
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmkd.registry import FAMILIES

from .detector import Detector
from .family import Predictions, replaced
from .query_criterion import QueryCriterion
from .query_encoder import encoder_maps, hear_encoder, is_two_stage
from .query_targets import INPUTS, by_softmax, query_targets

_HEADS = (DINOHead, DeformableDETRHead, DABDETRHead, ConditionalDETRHead, DETRHead)
_HEAD_INPUTS = ('hidden_states', 'references')
_OWN = ('forward', 'loss_by_feat', 'loss_by_feat_single')  # what makes a head a stock one


@dataclass
class QueryContext:
    """How a student came to its predictions.

    Attributes:
        sizes: ``(H, W)`` of the maps that its encoder was given.
        decoder: what its decoder was given, by name.
        autocast: makes a context under which its layers run again as they have run.
        denoising: how many of its queries, the first, are denoising queries.
    """

    sizes: list[tuple[int, int]]
    decoder: dict
    autocast: Callable
    denoising: int = 0


@FAMILIES.register_module()
class QueryDetector(Detector):
    """DETR and its descendants with their stock heads.

    Final predictions are ``query_cls`` ``[L, B, Q, K]`` (with a softmax K + 1) and ``query_box``
    ``[L, B, Q, 4]``, ``cx cy w h`` relative to the image, of all L layers of the decoder. A
    two-stage teacher also gives its encoder's class logits as ``cls`` maps ``[B, K, H, W]``, by
    level (Deformable DETR: ``[B, 1, H, W]``, object or not), lowest where it proposes no box.
    """

    specificity = 1

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if is_two_stage(model):
            self.gives = self.gives | {'scores'}

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        return isinstance(model, DetectionTransformer) and _has_stock_head(model)

    def forward(self, model, inputs, data_samples):
        features = model.extract_feat(inputs)
        told, encoded = {}, {}
        if model.training:
            data_samples = [_without_labels(x, inputs.device) for x in data_samples]
        with _hear_decoder(model, told), hear_encoder(model, encoded):
            decoded = model.forward_transformer(features, data_samples)
        cls, box = model.bbox_head(*(decoded[n] for n in _HEAD_INPUTS if n in decoded))
        outputs = dict(query_cls=[cls], query_box=[box])
        outputs.update({name: [told[name]] for name in INPUTS if name in told})
        outputs.update(encoder_maps(model, encoded, _sizes(features)))
        if model.training:  # a student without labels, of whose decoder more may be asked
            outputs['memory'] = [told['value' if 'value' in told else 'key']]
        return Predictions(outputs)

    @contextmanager
    def listen(self, model):
        predictions = Predictions()
        head, told, encoded, sizes = model.bbox_head, {}, {}, []
        stock_loss, stock_start, stock_decode = (
            head.loss_by_feat, model.pre_transformer, model.forward_decoder
        )  # fmt: skip

        def pre_transformer(features, *args, **kwargs):
            sizes[:] = _sizes(features)
            return stock_start(features, *args, **kwargs)

        def forward_decoder(**kwargs):
            told.update(kwargs)
            autocast = _autocast_now(kwargs['memory'].device)
            predictions.context = QueryContext(sizes, told, autocast)
            return stock_decode(**kwargs)

        def loss_by_feat(cls, box, *args, **kwargs):
            if isinstance(head, DINOHead):
                predictions.context.denoising = args[-1]['num_denoising_queries']
            predictions.outputs = dict(query_cls=[cls], query_box=[box], memory=[told['memory']])
            predictions.outputs.update(encoder_maps(model, encoded, sizes))
            return stock_loss(cls, box, *args, **kwargs)

        with (
            replaced(model, pre_transformer=pre_transformer, forward_decoder=forward_decoder),
            replaced(head, loss_by_feat=loss_by_feat),
            hear_encoder(model, encoded),
        ):
            yield predictions

    def why_no_logits(self, model):
        return None

    def check_pair(self, student, teacher, teacher_family):
        if not isinstance(teacher_family, QueryDetector):
            kind = teacher_family.kind
            return f'the student is a query-based detector, the teacher {kind} is not'
        heads = student.bbox_head, teacher.bbox_head
        how = ['softmax' if by_softmax(head) else 'sigmoid' for head in heads]
        if how[0] != how[1]:
            names = [type(head).__name__ for head in heads]
            return (
                f"the student's {names[0]} classifies by {how[0]}, the teacher's {names[1]} by "
                f'{how[1]}'
            )
        return None

    def criterion(self, student, teacher, losses):
        return QueryCriterion(student, teacher, losses)

    def targets(self, teacher, outputs, match, lesson):
        return query_targets(teacher.bbox_head, outputs, match, lesson)

    def num_classes(self, model):
        return model.bbox_head.num_classes

    def as_maps(self, tensors, predictions):
        sizes = predictions.context.sizes
        cells = [height * width for height, width in sizes]
        maps = []
        for x in tensors:
            if x.dim() == 3 and x.shape[1] == sum(cells):  # the encoder's [B, sum(H * W), C]
                levels = x.mT.split(cells, dim=-1)
                maps += [level.unflatten(-1, size) for level, size in zip(levels, sizes)]
            else:
                maps.append(x)
        return maps

    def why_no_cells(self, model):
        if not is_two_stage(model):
            return f'{self.kind} has no encoder that classifies its cells'
        if not isinstance(model, DINO):
            return f"{self.kind}'s encoder tells objects from background only, not their classes"
        return None


def _has_stock_head(model: nn.Module) -> bool:
    """Whether a model's head predicts and learns as one of the known ones."""
    head = type(getattr(model, 'bbox_head', None))
    return any(
        issubclass(head, known) and all(getattr(head, n) is getattr(known, n) for n in _OWN)
        for known in _HEADS
    )


def _without_labels(sample: DetDataSample, device) -> DetDataSample:
    """The same image with nothing in it: of boxes a DINO in training makes denoising queries."""
    nothing = InstanceData(
        bboxes=torch.zeros(0, 4, device=device),
        labels=torch.zeros(0, dtype=torch.long, device=device),
    )
    return DetDataSample(metainfo=sample.metainfo, gt_instances=nothing)


@contextmanager
def _hear_decoder(model: nn.Module, told: dict):
    """Notes what a model's decoder is given, by name."""

    def note(module, args, kwargs):
        told.update(kwargs)

    hook = model.decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _sizes(features) -> list[tuple[int, int]]:
    return [tuple(x.shape[-2:]) for x in features]


def _autocast_now(device: torch.device) -> Callable:
    kind = device.type
    now = dict(dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
    return partial(torch.autocast, kind, **now)
