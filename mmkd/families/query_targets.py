"""What a query-based teacher says of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .pairing import shared_and_none

INPUTS = ('query', 'query_pos', 'reference_points')  # what tells a decoder's queries apart


@dataclass
class QueryTargets:
    """What a teacher says: L layers of its decoder, Q queries.

    Attributes:
        cls: class logits of the shared classes ``[L, B, Q, K]``; with a softmax the last is "no
            object".
        box: ``cx cy w h`` relative to the image ``[L, B, Q, 4]``.
        score: highest class score, 0 where a box is centred in an ignored one ``[L, B, Q]``.
        inputs: what its decoder was given for its queries, by name, ``[B, Q, ...]``.
    """

    cls: Tensor
    box: Tensor
    score: Tensor
    inputs: dict[str, Tensor]


@torch.no_grad()
def query_targets(head: nn.Module, outputs: dict, match, lesson) -> QueryTargets:
    """Reads a teacher's raw outputs once for every term that listens to it.

    Args:
        head: the teacher's head.
        outputs: its raw outputs by kind.
        match: which classes both know.
        lesson: the training step.
    """
    softmax = by_softmax(head)
    cls = shared_classes(outputs['query_cls'][0], match.teacher, softmax)
    box = outputs['query_box'][0].float()
    scores = cls.softmax(-1)[..., :-1] if softmax else cls.sigmoid()
    score = scores.amax(-1) * ~_ignored(box, lesson.data_samples)
    inputs = {name: outputs[name][0].float() for name in INPUTS if name in outputs}
    return QueryTargets(cls, box, score, inputs)


def by_softmax(head: nn.Module) -> bool:
    """Whether a head's classes exclude each other, "no object" being one of them."""
    return not head.loss_cls.use_sigmoid


def shared_classes(cls: Tensor, select, softmax: bool) -> Tensor:
    """Logits ``[..., K]`` of the classes that both know, with "no object" where there is one.

    Args:
        cls: logits.
        select: a model's side of the match, ``match.student`` or ``match.teacher``.
        softmax: whether the last class is "no object".
    """
    return shared_and_none(cls, select) if softmax else select(cls, dim=-1).float()


def _ignored(box: Tensor, samples: list) -> Tensor:
    """Which boxes ``[L, B, Q, 4]`` have their centre in a box that is to be ignored."""
    inside = torch.zeros(box.shape[:-1], dtype=torch.bool, device=box.device)
    for index, sample in enumerate(samples):
        ignored = getattr(sample, 'ignored_instances', None)
        if ignored is None or 'bboxes' not in ignored or not len(ignored.bboxes):
            continue
        edges = getattr(ignored.bboxes, 'tensor', ignored.bboxes).to(box)
        height, width = sample.img_shape[:2]
        centre = box[:, index, :, None, :2] * box.new_tensor([width, height])
        within = (centre >= edges[:, :2]) & (centre <= edges[:, 2:])
        inside[:, index] = within.all(-1).any(-1)
    return inside
