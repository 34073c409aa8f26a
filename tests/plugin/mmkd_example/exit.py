import torch.nn.functional as F
from torch import nn

from mmkd.exits.exit import Exit
from mmkd.registry import MODELS
from mmkd.terms.term import shape_of

from .family import CenterNetFamily


@MODELS.register_module()
class HeatmapExit(Exit):
    """One 1x1 convolution per tapped stage of a CenterNet: its heat map, early.

    Args:
        tap: address in the student, or a list of them.
        **kwargs: see :class:`mmkd.exits.exit.Exit`.

    Raises:
        ValueError: see :class:`mmkd.exits.exit.Exit`, and where the student is no CenterNet.
    """

    def __init__(self, tap, **kwargs) -> None:
        super().__init__(tap, **kwargs)
        self.branches = nn.ModuleList()

    def prepare(self, rehearsal) -> None:
        if not isinstance(rehearsal.family, CenterNetFamily):
            raise ValueError(f'{self.where}: HeatmapExit needs a CenterNet; use DenseExit')
        super().prepare(rehearsal)
        stages = rehearsal.student_tensors(self)
        self.weights(len(stages))
        for stage in stages:
            branch = nn.Conv2d(stage.shape[1], rehearsal.model.bbox_head.num_classes, 1)
            nn.init.constant_(branch.bias, -2.19)  # a probability of 0.1, as the head begins
            self.branches.append(branch)
            self.shapes.append(shape_of(stage))

    def forward(self, lesson):
        size = lesson.student.predictions.outputs['cls'][0].shape[-2:]
        stages = lesson.tap(self.name, self.student_taps)
        losses = {}
        for stage, branch, weight in zip(stages, self.branches, self.weights(len(stages))):
            outputs = dict(cls=[F.interpolate(branch(stage), size, mode='bilinear')])
            taught = self.taught(outputs, lesson, lesson.student_model.bbox_head, weight)
            for name, value in taught.items():
                losses[name] = losses.get(name, 0.0) + value
        losses.update(self.feature_losses(lesson))
        return losses
