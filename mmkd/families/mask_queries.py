"""What mmseg's and mmdet's models have in common whose queries predict a class and a mask each."""

from contextlib import contextmanager

from mmdet.models.dense_heads import Mask2FormerHead, MaskFormerHead
from torch import nn

from mmkd.losses.functional.mask_query import semantic_logits

from .family import Predictions, replaced
from .mask_query_collapse import SemanticCollapse
from .mask_query_matching import QueryMatching

_POINTS = 12544  # Mask2Former's; MaskFormer compares whole masks


def query_head(model: nn.Module) -> nn.Module | None:
    """The head of Mask2Former or MaskFormer, of either library."""
    for name in ('decode_head', 'panoptic_head'):
        head = getattr(model, name, None)
        if isinstance(head, MaskFormerHead):
            return head
    return None


def why_no_queries(head: nn.Module) -> str | None:
    """Why the predictions of such a head cannot be taught, or ``None``."""
    kind = type(head)
    if kind.loss_by_feat is not MaskFormerHead.loss_by_feat:
        return f'{kind.__name__} has a loss of its own'
    return None


def why_no_collapse(head: nn.Module) -> str | None:
    """Why the collapse of its queries says nothing, or ``None``."""
    if head.num_classes == 1:
        return f'{type(head).__name__} has one class, and a distribution over one says nothing'
    return None


def said_by_queries(classes, masks, training: bool) -> Predictions:
    """Final predictions of a model that was run as a teacher is.

    Args:
        classes: by layer, logits ``[B, Q, K + 1]``.
        masks: by layer, logits ``[B, Q, h, w]``.
        training: whether it is a student without labels, of which every layer may be asked for.
    """
    if training:
        return Predictions(outputs=dict(query=list(classes), mask=list(masks)))
    return Predictions(outputs=with_pixels(dict(query=[classes[-1]], mask=[masks[-1]])))


def with_pixels(outputs: dict) -> dict:
    """The outputs with ``seg``, what the last layer says of each pixel ``[B, K, h, w]``."""
    if 'seg' in outputs:
        return outputs
    return dict(outputs, seg=[semantic_logits(outputs['query'][-1], outputs['mask'][-1])])


@contextmanager
def listen_to_queries(head: nn.Module):
    """Yields predictions, filled with every layer's while the head's own ``loss()`` runs inside."""
    predictions = Predictions()
    stock, stock_by_feat = head.loss, head.loss_by_feat

    def loss(features, data_samples, *args, **kwargs):
        predictions.context = (data_samples,)
        return stock(features, data_samples, *args, **kwargs)

    def loss_by_feat(classes, masks, *args, **kwargs):
        # lists, also where layers are stacked: the loss has to read the very tensors that terms do
        predictions.outputs = dict(query=list(classes), mask=list(masks))
        return stock_by_feat(*predictions.outputs.values(), *args, **kwargs)

    with replaced(head, loss=loss, loss_by_feat=loss_by_feat):
        yield predictions


def query_criterion(head: nn.Module, teacher: nn.Module, losses: dict, pixels, default=None):
    """The vanilla KD of such a student.

    Args:
        head: the student's.
        teacher: the teacher.
        losses: overrides of losses by name, and the options ``layers``, indices of the student's
            predictions, and ``matching``, ``None`` for the semantic collapse or ``'hungarian'``.
        pixels: makes the criterion of pixels from the overrides.
        default: the ``matching`` where none is given.

    Raises:
        ValueError: on an option that does not fit the two models.
    """
    losses = dict(losses)
    layers = _checked_layers(losses.pop('layers', (-1,)), head)
    matching = losses.pop('matching', default)
    if matching is None:
        if reason := why_no_collapse(head):
            raise ValueError(f"LogitKD: matching=None: {reason}; write matching='hungarian'")
        return SemanticCollapse(layers, pixels(losses))
    if matching != 'hungarian':
        raise ValueError(
            f"LogitKD: matching={matching!r} must be None (semantic collapse) or 'hungarian'"
        )
    if query_head(teacher) is None:
        raise ValueError(
            "LogitKD: matching='hungarian' needs a teacher whose queries predict masks, which "
            f'{type(teacher).__name__} has not; write matching=None'
        )
    return QueryMatching(layers, getattr(head, 'num_points', _POINTS), losses)


def _checked_layers(layers, head: nn.Module) -> tuple[int, ...]:
    decoder = head.transformer_decoder
    if isinstance(head, Mask2FormerHead):
        count = len(decoder.layers) + 1  # it predicts from its bare queries, too
    else:
        count = len(decoder.layers) if decoder.return_intermediate else 1
    layers = tuple(layers) if isinstance(layers, (list, tuple)) else (layers,)
    if not layers or any(not isinstance(i, int) or not -count <= i < count for i in layers):
        raise ValueError(
            f'LogitKD: layers={list(layers)}: {type(head).__name__} predicts {count} times; give '
            f'indices from 0 to {count - 1}'
        )
    return layers
