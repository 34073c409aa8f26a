"""What every exit shares."""

from torch import Tensor, nn

from mmkd.losses.functional import losses_at_once
from mmkd.terms.cross import join_channels
from mmkd.terms.feature_kd import FeatureKD
from mmkd.terms.term import Term, check_weight, full_precision, parse_taps


class Exit(Term):
    """A branch on stages of the student, thrown away after training.

    Its loss is ``weight * schedule * (gt * labels + kd * teacher's final predictions + feat *
    teacher's feature at the same depth)``: three independent switches. Where weights are a list,
    each branch has its own in all three. Deep supervision: Lee et al. (2015); with a teacher's
    final predictions: Hao et al. (NeurIPS 2023; TPAMI 2026).

    Args:
        tap: address in the student, or a list of them.
        adapter: ``'auto'``, or the config of one built with ``in_channels`` and ``out_channels``.
        weight: a number, or one per branch where branches are separate.
        gt: weight of the labels.
        kd: weight of the teacher's final predictions.
        feat: weight of the teacher's features at the same addresses.
        feat_loss: config of the feature loss.
        kd_losses: overrides of the family's KD losses by name, as ``LogitKD`` takes them.
        teacher: which teacher, where several are named.
        schedule: ``dict(begin=0, warmup=100, end=None, fade=0)`` in iterations.

    Raises:
        ValueError: on an address or a weight that makes no sense.
    """

    kind = 'exit'
    without_teacher = 'gt=1, kd=0, feat=0'

    def __init__(
        self, tap, adapter='auto', weight=0.25, gt=0.5, kd=0.5, feat=0.0,
        feat_loss=dict(type='PKDLoss'), kd_losses=None, teacher=None, schedule=None,  # noqa: B006
    ):  # fmt: skip
        if schedule is None or isinstance(schedule, dict):
            schedule = dict(dict(warmup=100), **(schedule or {}))
        super().__init__(weight, schedule, teacher)
        self.student_taps = parse_taps(tap)
        self.gt, self.kd, self.feat = (
            check_weight(name, value) for name, value in (('gt', gt), ('kd', kd), ('feat', feat))
        )
        if not (self.gt or self.kd or self.feat):
            raise ValueError('gt, kd and feat are all 0: switch one on, or set weight=0')
        self.adapter = adapter
        self.uses_teacher = bool(self.kd or self.feat)
        self.uses_logits = self.uses_predictions = bool(self.kd)
        self.feature = None
        if self.feat:
            self.feature = FeatureKD(tap, loss=feat_loss, teacher=teacher, weight=self.weight)
            self.teacher_taps = self.feature.teacher_taps
            self.uses_predictions |= self.feature.uses_predictions
        self._kd_losses = kd_losses or {}
        self.criterion = nn.Module()

    def meet(self, student, teacher) -> None:
        if self.feature is not None:
            self.feature.name = self.name
            self.feature.kind = self.kind
            self.feature.meet(student, teacher)

    def prepare(self, rehearsal) -> None:
        if self.kd:
            self.criterion = rehearsal.criterion(self, self._kd_losses)
        if self.feature is not None:
            self.feature.prepare(rehearsal)

    def check_maps(self, stages: list[Tensor]) -> None:
        """Refuses stages that are no maps.

        Raises:
            ValueError: if they are not ``[B, C, H, W]``.
        """
        if any(x.dim() != 4 for x in stages):
            shapes = ', '.join(str(tuple(x.shape)) for x in stages)
            raise ValueError(f'{self.where}: stages must be [B, C, H, W] maps, not {shapes}')

    def strides(self, stages: list[Tensor], side: int) -> list[int]:
        """Pixels a cell, of stages of images with this side.

        Raises:
            ValueError: if they are not ``[B, C, H, W]`` maps.
        """
        self.check_maps(stages)
        return [round(side / x.shape[-1]) for x in stages]

    def adapt(self, in_channels: int, width: int, join) -> nn.Module:
        """The adapter of one stage: the user's, none where channels are equal, or ``join``'s.

        Args:
            in_channels: of the stage.
            width: of what it has to fit.
            join: makes an adapter of the two.

        Raises:
            ValueError: if channels differ and the user wants none.
        """
        return join_channels(self, self.adapter, in_channels, width, join)

    def ground_truth(self, outputs: dict, lesson, head: nn.Module) -> dict[str, Tensor]:
        """Losses against the labels by the main head's own rules, lists summed."""
        losses = lesson.family.ground_truth_losses(head, outputs, lesson.student.predictions)
        return {
            name: sum(value) if isinstance(value, (list, tuple)) else value
            for name, value in losses.items()
        }

    def distil(self, outputs: dict, lesson) -> dict[str, Tensor]:
        """Losses against the teacher's final predictions."""
        with full_precision(lesson.inputs):
            return self.criterion(
                outputs, lesson.targets(self.teacher), lesson.match(self.teacher), lesson
            )

    def taught(self, outputs: dict, lesson, head: nn.Module | None, weight: float) -> dict:
        """The labels' and the final predictions' share of one branch's loss, weighted."""
        losses = {}
        if self.gt:
            labels = losses_at_once(lambda x: self.ground_truth(x, lesson, head), outputs)
            for name, value in labels.items():
                losses[f'gt_{name}'] = value * (weight * self.gt)
        if self.kd:
            for name, value in self.distil(outputs, lesson).items():
                losses[f'kd_{name}'] = value * (weight * self.kd)
        return losses

    def feature_losses(self, lesson) -> dict[str, Tensor]:
        """The features' share, weighted."""
        if self.feature is None:
            return {}
        return {'feat_loss': self.feature(lesson)['loss'] * self.feat}


def project(in_channels: int, width: int) -> nn.Module:
    """An adapter of a stage: 1x1 convolution and norm."""
    return nn.Sequential(nn.Conv2d(in_channels, width, 1), group_norm(width))


def group_norm(width: int) -> nn.GroupNorm:
    """GroupNorm with as many groups, up to 32, as divide the channels."""
    groups = max(n for n in (32, 16, 8, 4, 2, 1) if width % n == 0)
    return nn.GroupNorm(groups, width)
