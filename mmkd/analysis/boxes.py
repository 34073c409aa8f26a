"""Which detections are right, which objects are found, and what lies in the cells of a map."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Detections:
    """What a model says of one image.

    Attributes:
        boxes: corners in pixels ``[N, 4]``.
        labels: classes ``[N]``.
        scores: ``[N]``.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def sure(self, score: float) -> 'Detections':
        """Those of at least a score."""
        return self[self.scores >= score]

    def __getitem__(self, keep: Tensor) -> 'Detections':
        return Detections(self.boxes[keep], self.labels[keep], self.scores[keep])

    def right(self, boxes: Tensor, labels: Tensor, iou: float = 0.5) -> Tensor:
        """Whether each finds an object of its class that none with a higher score has found.

        Args:
            boxes: the objects' ``[M, 4]``.
            labels: their classes ``[M]``.
            iou: the least that counts as found.
        """
        return ~match(self, boxes, labels, iou=iou)[1]

    def says_of(self, boxes: Tensor, iou: float = 0.5) -> Tensor:
        """The class of the surest detection at each object ``[M]``; -1: none is there."""
        overlaps = box_iou(boxes, self.boxes)
        scores = torch.where(overlaps >= iou, self.scores[None], -1.0)
        if not scores.shape[1]:
            return torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
        best, place = scores.max(1)
        return self.labels[place].masked_fill(best < 0, -1)

    def repeats(self, other: 'Detections', iou: float = 0.5) -> Tensor:
        """Whether each of another model's detections is here, too: same class, same place."""
        overlaps = box_iou(other.boxes, self.boxes)
        return ((overlaps >= iou) & (other.labels[:, None] == self.labels[None])).any(1)


def match(
    found: Detections,
    boxes: Tensor,
    labels: Tensor,
    ignored: Tensor | None = None,
    iou: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Which objects a detector finds, as COCO's evaluation matches at one threshold.

    By falling score, a detection takes the object of its class that it overlaps most and that none
    has taken. One that overlaps no such object, but is half inside an ignored one, does not count.

    Args:
        found: the detections.
        boxes: the objects' ``[M, 4]``.
        labels: their classes ``[M]``.
        ignored: which of them do not count, bool ``[M]``; ``None``: all count.
        iou: the least that counts as found.

    Returns:
        bool ``[M]``, objects found; bool ``[N]``, false alarms.
    """
    same = found.labels[:, None] == labels[None]
    overlaps = box_iou(found.boxes, boxes) * same
    inside = box_iou(found.boxes, boxes, of_first=True) * same
    hit = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    ignored = torch.zeros_like(hit) if ignored is None else ignored
    false = torch.zeros(len(found.boxes), dtype=torch.bool, device=boxes.device)
    for index in found.scores.argsort(descending=True, stable=True).tolist():
        free = overlaps[index] * ~(hit | ignored)
        best = int(free.argmax()) if len(boxes) else -1
        if best >= 0 and free[best] >= iou:
            hit[best] = True
        else:
            false[index] = not bool((inside[index][ignored] >= iou).any())
    return hit, false


def box_iou(first: Tensor, second: Tensor, of_first: bool = False) -> Tensor:
    """Intersection over union of corners ``[N, 4]`` and ``[M, 4]``: ``[N, M]``.

    With ``of_first`` the intersection's share of the first box.
    """
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (first, second)]
    whole = areas[0][:, None] if of_first else areas[0][:, None] + areas[1][None] - both
    return both / whole.clamp(min=1e-9)


def cell_classes(boxes: Tensor, labels: Tensor, size, canvas, background: int) -> Tensor:
    """What lies in each cell of a map: the smallest box over its centre.

    The cell at the centre of a box is that box's in any case, so that small ones have one, too.

    Args:
        boxes: corners in pixels ``[M, 4]``.
        labels: their classes ``[M]``.
        size: of the map ``(H, W)``.
        canvas: of the image ``(height, width)`` in pixels.
        background: the class of cells without a box.

    Returns:
        classes ``[H, W]``.
    """
    scale = boxes.new_tensor([canvas[1] / size[1], canvas[0] / size[0]]).repeat(2)
    cells = torch.full(tuple(size), background, dtype=torch.long, device=boxes.device)
    boxes = boxes / scale  # in cells
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    order = areas.argsort(descending=True).tolist()
    for index in order:
        x1, y1, x2, y2 = (boxes[index] - 0.5).ceil().clamp(min=0).long().tolist()
        cells[y1:y2, x1:x2] = labels[index]
    for index in order:
        x, y = ((boxes[index, :2] + boxes[index, 2:]) / 2).long().tolist()
        if 0 <= y < size[0] and 0 <= x < size[1]:
            cells[y, x] = labels[index]
    return cells
