"""Which of a student's queries say what a teacher's queries say."""

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor

from .pairing import assign

_CLS, _BOX, _IOU = 1.0, 5.0, 2.0


@torch.no_grad()
def match_queries(
    cls: Tensor, box: Tensor, teacher_cls: Tensor, teacher_box: Tensor, softmax: bool
) -> Tensor:
    """One-to-one Hungarian matching by DETRDistill's cost (Chang et al., ICCV 2023).

    Cross-entropy to the teacher's classes + 5 times the L1 distance + 2 times -GIoU.

    Args:
        cls: the student's class logits, one matching a row ``[N, Q, K]``.
        box: its boxes, ``cx cy w h`` relative to the image ``[N, Q, 4]``.
        teacher_cls: the teacher's ``[N, M, K]``, M <= Q: each of them finds a query.
        teacher_box: ``[N, M, 4]``.
        softmax: whether classes exclude each other (the last is then "no object").

    Returns:
        the student's query of each of the teacher's, ``[N, M]``.
    """
    # what the teacher's entropy adds is the same for every query of the student
    if softmax:
        costs = -_CLS * F.log_softmax(cls, -1) @ teacher_cls.softmax(-1).mT
    else:
        agreement = cls @ teacher_cls.sigmoid().mT
        costs = _CLS * (F.softplus(cls).sum(-1, keepdim=True) - agreement)
    costs = costs + _BOX * torch.cdist(box, teacher_box, p=1)
    corners = bbox_cxcywh_to_xyxy(box), bbox_cxcywh_to_xyxy(teacher_box)
    return assign(costs - _IOU * bbox_overlaps(*corners, mode='giou'))
