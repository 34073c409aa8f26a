"""Early predictions of segmentors."""

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmkd.losses.functional import reduce_mean
from mmkd.registry import MODELS, build
from mmkd.terms.term import shape_of

from .exit import Exit


@MODELS.register_module()
class SegExit(Exit):
    """One FCN branch per tapped stage: 3x3 convolution, norm, ReLU, dropout, 1x1 convolution.

    A tap that names a decode head the student already has (``tap='auxiliary_head'``) is the
    parameter-free form: the teacher is added to that head, whose labels the student has already.

    Args:
        channels: width of the branches; ``None``: that of the student's decode head.
        dropout: probability of dropping a channel before the classifier.
        balance: ``None``: branches keep their weights. ``'loss'``: a branch b is weighed by its
            loss, ``W * L_b / sum L``, W the sum of the weights and L the branches' losses of labels
            and predictions at weight 1, averaged over ranks and without gradient: what is learnt
            least counts most. Features keep ``weight``. A reading of DSKD (Luo et al., IJCNN 2023:
            weights allocated by losses), whose formula has no public code.
        **kwargs: see :class:`mmkd.exits.exit.Exit`; ``weight`` may be a list, one per branch.

    Raises:
        ValueError: see :class:`mmkd.exits.exit.Exit`.
    """

    def __init__(
        self, tap, channels: int | None = None, dropout: float = 0.1, balance: str | None = None,
        **kwargs,
    ):  # fmt: skip
        super().__init__(tap, **kwargs)
        if balance not in (None, 'loss'):
            raise ValueError(f"balance={balance!r} must be None or 'loss'")
        if balance and isinstance(self.weight, list):
            raise ValueError(
                f"balance='loss' shares one weight among the branches; weight={self.weight} must "
                'be a number'
            )
        if balance and not (self.gt or self.kd):
            raise ValueError("balance='loss' weighs labels and predictions; gt and kd are both 0")
        self.channels = channels
        self.dropout = dropout
        self.balance = balance
        self.branches = nn.ModuleList()
        self.own_head: str | None = None

    def prepare(self, rehearsal) -> None:
        family, model = rehearsal.family, rehearsal.model
        if not hasattr(family, 'is_head'):
            raise ValueError(
                f'{self.where}: SegExit needs a segmentor, not {family.kind}; detectors have '
                'DenseExit, RoIExit, CrossExit and SemanticExit'
            )
        if reason := family.why_no_logits(model):
            raise ValueError(f'{self.where}: {reason}, whose labels SegExit needs')
        module = self.student_taps[0].find(model, self.where)
        if family.is_head(module):
            self._take_head()
            super().prepare(rehearsal)
            return
        super().prepare(rehearsal)
        head = family.head(model)
        stages = rehearsal.student_tensors(self)
        self.weights(len(stages))
        if self.balance and len(stages) < 2:
            raise ValueError(f"{self.where}: balance='loss' needs several branches, not one")
        self.check_maps(stages)
        for stage in stages:
            style = family.branch_style(head, self.channels)
            self.branches.append(self._branch(stage.shape[1], *style, head.out_channels))
            self.shapes.append(f'{shape_of(stage)} -> {head.out_channels} classes')

    def _take_head(self) -> None:
        if self.balance:
            raise ValueError(f"{self.where}: balance='loss' needs several branches, not a head")
        if self.gt or self.feat or len(self.student_taps) > 1:
            raise ValueError(
                f'{self.where}: {self.student_taps[0].address!r} is a head the student has and '
                'teaches with labels already; write gt=0, kd=1, feat=0 and one tap'
            )
        self.own_head = self.student_taps[0].path
        self.student_taps = []
        self.shapes.append(f'the logits of {self.own_head}')

    def _branch(self, in_channels: int, width: int, norm_cfg, classes: int) -> nn.Module:
        layers = [
            ConvModule(in_channels, width, 3, padding=1, norm_cfg=norm_cfg),
            nn.Dropout2d(self.dropout) if self.dropout else nn.Identity(),
            nn.Conv2d(width, classes, 1),
        ]
        nn.init.normal_(layers[-1].weight, std=0.01)
        nn.init.zeros_(layers[-1].bias)
        if self.adapter not in ('auto', None):
            channels = dict(in_channels=in_channels, out_channels=in_channels)
            layers.insert(0, build(self.adapter, f'{self.where}: adapter', **channels))
        return nn.Sequential(*layers)

    def forward(self, lesson) -> dict[str, Tensor]:
        if self.own_head:
            outputs = [lesson.outputs(self.name, lesson.heads[self.own_head])]
            head, weights = None, self.weights(1)
        else:
            stages = lesson.tap(self.name, self.student_taps)
            outputs = [dict(seg=[f(x)]) for f, x in zip(self.branches, stages, strict=True)]
            head = lesson.family.head(lesson.student_model)
            weights = self.weights(len(stages))
        if self.balance:
            parts = self._balanced([self.taught(out, lesson, head, 1.0) for out in outputs])
        else:
            parts = [self.taught(out, lesson, head, w) for out, w in zip(outputs, weights)]
        losses = {}
        for part in parts:
            for name, value in part.items():
                losses[name] = losses.get(name, 0.0) + value
        losses.update(self.feature_losses(lesson))
        return losses

    def _balanced(self, parts: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        sizes = reduce_mean(torch.stack([sum(part.values()).detach() for part in parts]))
        tiny = torch.finfo(sizes.dtype).tiny  # all are 0 where nothing is valid
        shares = sizes * (sum(self.weights(len(parts))) / sizes.sum().clamp(min=tiny))
        return [
            {name: value * share for name, value in part.items()}
            for part, share in zip(parts, shares)
        ]
