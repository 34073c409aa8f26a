"""Vanilla KD of mask classification, query by query."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.build import build_losses
from mmkd.losses.functional import reduce_mean
from mmkd.losses.functional.mask_query import matching_costs

from .cells import valid_map
from .pairing import assign, pick, shared_and_none

_NO_OBJECT = 0.1  # weight of the pairs in which the teacher sees none, as for the labels


class QueryMatching(nn.Module):
    """Compares matched queries: softmax KL of their classes, binary KL and dice of their masks.

    The student's last layer is matched with the teacher's (Hungarian, by the same three), once for
    all chosen layers, on points that both share. Of a teacher with more queries than the student
    those that are surest of an object are kept. ``loss_cls`` is over K + 1 classes, pairs without
    an object at 0.1, divided by the sum of these weights; ``loss_mask`` (mean over points) and
    ``loss_dice`` weigh a pair by the teacher's highest class score and are divided by the sum of
    these, at least 1. Sums are averaged over ranks, and the mean over layers is taken.

    Args:
        layers: indices of the student's predictions.
        points: how many are drawn in an image, evenly over its valid pixels.
        losses: overrides of the three.
    """

    def __init__(self, layers: tuple[int, ...], points: int, losses: dict) -> None:
        super().__init__()
        self.layers = layers
        self.points = points
        defaults = dict(
            loss_cls=dict(type='KLDivergence', loss_weight=2.0),
            loss_mask=dict(type='BinaryKLDivergence', loss_weight=5.0),
            loss_dice=dict(type='DiceKDLoss', loss_weight=5.0),
        )
        self.parts, self.loss_weights = build_losses(losses, defaults)

    def forward(self, student: dict, teacher: dict, match, lesson) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            student: by layer, ``query`` logits ``[B, Q, K + 1]`` and ``mask`` logits
                ``[B, Q, h, w]``.
            teacher: the same of its last layer.
            match: which classes both know.
            lesson: the training step, asked for valid cells.
        """
        points, valid = self._draw(lesson, student['mask'][-1])
        theirs = shared_and_none(teacher['query'][-1], match.teacher)
        score = theirs.softmax(-1)[..., :-1].amax(-1)
        kept = score.topk(min(score.shape[1], student['query'][-1].shape[1]), dim=1).indices
        theirs, score = pick(theirs, kept), pick(score, kept)
        their_points = pick(_sample(teacher['mask'][-1], points), kept)
        pairs = self._match(student, theirs, their_points, score, match, points)

        sees_none = theirs.argmax(-1) == theirs.shape[-1] - 1
        by_class = torch.where(sees_none, _NO_OBJECT, 1.0) * valid
        by_score = score * valid
        class_total = reduce_mean(by_class.sum())
        score_total = reduce_mean(by_score.sum()).clamp(min=1.0)
        targets = dict(
            loss_cls=(theirs, by_class, class_total),
            loss_mask=(their_points, by_score, score_total * self.points),
            loss_dice=(their_points, by_score, score_total),
        )
        losses = {}
        for layer in self.layers:
            classes = pick(shared_and_none(student['query'][layer], match.student), pairs)
            masks = pick(_sample(student['mask'][layer], points), pairs)
            for name, loss in self.parts.items():
                target, weight, total = targets[name]
                ours = classes if name == 'loss_cls' else masks
                value = loss(
                    ours.flatten(0, 1), target.flatten(0, 1), weight=weight.flatten(),
                    avg_factor=total,
                )  # fmt: skip
                losses[name] = losses.get(name, 0.0) + value
        count = len(self.layers)
        return {name: x * (self.loss_weights[name] / count) for name, x in losses.items()}

    @torch.no_grad()
    def _match(self, student, theirs, their_points, score, match, points) -> Tensor:
        """The student's query for each of the teacher's, ``[B, Q']``."""
        classes = shared_and_none(student['query'][-1], match.student)
        ours = _sample(student['mask'][-1], points)
        return assign(matching_costs(classes, ours, theirs, their_points, score))

    @torch.no_grad()
    def _draw(self, lesson, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[B, P, 2]`` in valid cells, from 0 to 1; whether there are any, ``[B, 1]``."""
        height, width = masks.shape[-2:]
        odds = valid_map(lesson, masks).flatten(1).float()
        some = odds.amax(1, keepdim=True)
        cells = torch.multinomial(odds + (1 - some), self.points, replacement=True)
        corners = torch.stack([cells % width, cells // width], dim=-1)
        return (corners + torch.rand_like(corners, dtype=odds.dtype)) / odds.new_tensor(
            [width, height]
        ), some


def _sample(masks: Tensor, points: Tensor) -> Tensor:
    """Mask logits ``[B, Q, h, w]`` at points ``[B, P, 2]``: ``[B, Q, P]`` in fp32."""
    grid = 2 * points[:, :, None] - 1
    sampled = F.grid_sample(masks.float(), grid, padding_mode='border', align_corners=False)
    return sampled[..., 0]
