"""Early predictions of dense detectors."""

from torch import Tensor, nn

from mmkd.registry import MODELS, build_in_scope
from mmkd.terms.term import shape_of

from .exit import Exit, project

_WIDTH = 64


@MODELS.register_module()
class DenseExit(Exit):
    """A light copy of the student's own head on a pyramid of tapped stages.

    Adapters bring the stages to the head's width; coarser levels that the head expects are made by
    3x3 convolutions of stride 2. Labels are assigned once, by the main head.

    Args:
        channels: width of the head; ``None``: 64, or that of the student's head if it is narrower.
            An exit as wide as RetinaNet's own head costs half as much as that one.
        stacked_convs: convolutions in each tower.
        **kwargs: see :class:`mmkd.exits.exit.Exit`; one head, so ``weight`` is one number.

    Raises:
        ValueError: see :class:`mmkd.exits.exit.Exit`, and on stages that are not the head's levels.
    """

    has_one_weight = True

    def __init__(self, tap, channels: int | None = None, stacked_convs: int = 1, **kwargs):
        super().__init__(tap, **kwargs)
        self.channels = channels
        self.stacked_convs = stacked_convs
        self.levels = nn.ModuleList()
        self.extra = nn.ModuleList()
        self.branch = nn.Module()

    def prepare(self, rehearsal) -> None:
        super().prepare(rehearsal)
        family = rehearsal.family
        if not hasattr(family, 'light_head'):
            raise ValueError(
                f'{self.where}: DenseExit needs a RetinaNet, FCOS, ATSS, GFL, PAA, VFNet, TOOD, '
                f'RepPoints, RTMDet or YOLOX, not {family.kind}; two-stage detectors have RoIExit, '
                'all have SemanticExit'
            )
        stages = rehearsal.student_tensors(self)
        wanted = family.strides(rehearsal.model)
        self._check_strides(stages, wanted, rehearsal.side)
        width = self.channels
        if width is None:
            width = min(_WIDTH, rehearsal.model.bbox_head.feat_channels)
        cfg = family.light_head(rehearsal.model, rehearsal.student_cfg, width, self.stacked_convs)
        self.branch = build_in_scope(
            dict(cfg, _scope_=rehearsal.student_cfg['_scope_']), f'{self.where}: head'
        )
        self.branch.init_weights()
        for stage in stages:
            self.levels.append(self.adapt(stage.shape[1], width, project))
            self.shapes.append(f'{shape_of(stage)} -> {width} channels')
        for _ in range(len(wanted) - len(stages)):
            self.extra.append(nn.Conv2d(width, width, 3, stride=2, padding=1))

    def _check_strides(self, stages: list[Tensor], wanted: list[int], side: int) -> None:
        strides = self.strides(stages, side)
        if strides != wanted[: len(strides)]:
            raise ValueError(
                f'{self.where}: the tapped stages have strides {strides}, the head works at '
                f'{wanted}; tap stages that begin at stride {wanted[0]}'
            )

    def forward(self, lesson) -> dict[str, Tensor]:
        outputs = self.predict(lesson.tap(self.name, self.student_taps), lesson.family)
        losses = self.taught(outputs, lesson, self.branch, self.weight)
        losses.update(self.feature_losses(lesson))
        return losses

    def predict(self, stages: list[Tensor], family) -> dict[str, list[Tensor]]:
        """Raw outputs by kind on the tapped stages."""
        pyramid = [level(x) for level, x in zip(self.levels, stages, strict=True)]
        for convolution in self.extra:
            pyramid.append(convolution(pyramid[-1].relu()))
        return family.head_outputs(self.branch, pyramid)
