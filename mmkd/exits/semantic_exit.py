"""Early predictions of what is where, without boxes."""

from mmengine.model import bias_init_with_prob
from torch import Tensor, nn

from mmkd.registry import MODELS, build
from mmkd.terms.term import shape_of

from .dense_teacher import check_dense_teacher
from .exit import Exit, group_norm


@MODELS.register_module()
class SemanticExit(Exit):
    """One class-only branch per tapped stage: 3x3 convolution, norm, ReLU, 1x1 convolution.

    It is taught, at each cell of the stage, the teacher's class scores, the highest over the cell's
    priors, at the level of equal size; where none is equal, at the nearest (the highest score in
    the cells of a finer level, the nearest cell of a coarser one). The loss is divided by one N
    over all tapped stages: ``max(1, mean over ranks of the sum over valid cells of the teacher's
    highest score)``. So neither priors nor the type of the student's head play a part. The branches
    predict the teacher's classes, and are taught those that the student knows. A DINO teaches by
    the class scores of its encoder; the encoder of a query-based student is tapped as ``encoder``,
    and counts as one stage for each of its levels.

    Args:
        tap: address in the student, or a list of them.
        channels: width of the branches; ``None``: that of the teacher's head.
        loss: config of a loss on logits with ``weight`` and ``avg_factor``.
        weight: a number, or one per stage.
        teacher: which teacher, where several are named.
        schedule: ``dict(begin=0, warmup=100, end=None, fade=0)`` in iterations.

    Raises:
        ValueError: for a student that is no detector, or a teacher that gives no class scores of
            cells.
    """

    without_teacher = ''

    def __init__(
        self, tap, channels: int | None = None,
        loss=dict(type='KDQualityFocalLoss', beta=1.0),  # noqa: B006
        weight=0.25, teacher=None, schedule=None,
    ):  # fmt: skip
        super().__init__(tap, weight=weight, gt=0.0, kd=1.0, teacher=teacher, schedule=schedule)
        self.channels = channels
        self.criterion = build(loss, 'loss')
        self.branches = nn.ModuleList()

    def meet(self, student, teacher) -> None:
        check_dense_teacher(self, student, teacher)

    def prepare(self, rehearsal) -> None:
        teacher = rehearsal.teachers[self.teacher]
        stages = rehearsal.family.as_maps(
            rehearsal.student_tensors(self), rehearsal.student.predictions
        )
        self.weights(len(stages))
        self.check_maps(stages)
        head = teacher.model.bbox_head
        width = self.channels or getattr(head, 'feat_channels', None) or head.embed_dims
        classes = teacher.family.num_classes(teacher.model)
        for stage in stages:
            self.branches.append(_branch(stage.shape[1], width, classes))
            self.shapes.append(f'{shape_of(stage)} -> {classes} classes')

    def forward(self, lesson) -> dict[str, Tensor]:
        stages = lesson.family.as_maps(
            lesson.tap(self.name, self.student_taps), lesson.student.predictions
        )
        match = lesson.match(self.teacher)
        model, family = lesson.frozen(self.teacher)
        targets = family.cell_targets(
            model, lesson.teacher(self.teacher).predictions.outputs, match,
            [tuple(x.shape[-2:]) for x in stages], lesson,
        )  # fmt: skip
        total = 0.0
        for branch, x, target, valid, weight in zip(
            self.branches, stages, targets.cls, targets.valid, self.weights(len(stages)),
            strict=True,
        ):  # fmt: skip
            logits = match.teacher(branch(x), dim=1)
            value = self.criterion(logits, target, weight=valid, avg_factor=targets.count)
            total = total + weight * value
        return dict(kd_loss_cls=total)


def _branch(in_channels: int, width: int, classes: int) -> nn.Module:
    layers = [
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        group_norm(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, classes, 1),
    ]
    nn.init.normal_(layers[-1].weight, std=0.01)
    # most cells hold nothing: without this the first steps teach only that
    nn.init.constant_(layers[-1].bias, bias_init_with_prob(0.01))
    return nn.Sequential(*layers)
