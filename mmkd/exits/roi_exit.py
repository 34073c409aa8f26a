"""Early predictions of two-stage detectors."""

from dataclasses import replace
from itertools import pairwise

from torch import Tensor, nn

from mmkd.registry import MODELS, build_in_scope
from mmkd.terms.term import full_precision, shape_of

from .exit import Exit, group_norm, project

_WIDTH = 64
_LOSSES = ('loss_cls', 'loss_bbox')


@MODELS.register_module()
class RoIExit(Exit):
    """A light box head on the student's own sampled proposals, pooled from tapped stages.

    Adapters bring the stages to one width; RoIAlign takes each proposal from the stage whose stride
    suits its size, as the student's own extractor does; two 3x3 convolutions, an average and two
    linear layers predict class and box. Labels come from the sampling that the student's first
    stage made, so nothing is assigned again; the teacher's part is what its first stage says of the
    same proposals, which it is asked once for all terms and exits.

    Args:
        tap: address in the student, or a list of them: stages whose strides double.
        channels: width of the head; ``None``: 64, or that of the student's features if they are
            narrower.
        samples: how many of an image's proposals it takes; they are spread evenly over positives
            and background, so that the sampler's share of both stays.
        **kwargs: see :class:`mmkd.exits.exit.Exit`; one head, so ``weight`` is one number, and
            ``kd_losses`` has ``loss_cls`` and ``loss_bbox``.

    Raises:
        ValueError: see :class:`mmkd.exits.exit.Exit`, and on stages whose strides do not double.
    """

    has_one_weight = True

    def __init__(self, tap, channels: int | None = None, samples: int = 128, **kwargs):
        super().__init__(tap, **kwargs)
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f'samples={samples!r} must be a number of proposals >= 1')
        if unknown := sorted(set(self._kd_losses) - set(_LOSSES)):
            raise ValueError(f'kd_losses: unknown {unknown[0]!r}; RoIExit has {", ".join(_LOSSES)}')
        # of the family's losses only those on RoIs have a use here
        self._kd_losses = dict(loss_rpn_cls=None, loss_rpn_bbox=None, **self._kd_losses)
        self.channels = channels
        self.samples = samples
        self.levels = nn.ModuleList()
        self.extractor = nn.Module()
        self.branch = nn.Module()

    def prepare(self, rehearsal) -> None:
        if not hasattr(rehearsal.family, 'first_box_head'):
            raise ValueError(
                f'{self.where}: RoIExit needs Faster, Mask or Cascade R-CNN with stock heads, not '
                f'{rehearsal.family.kind}; use DenseExit or SemanticExit'
            )
        super().prepare(rehearsal)
        stages = rehearsal.student_tensors(self)
        strides = self.strides(stages, rehearsal.side)
        if any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(
                f'{self.where}: the tapped stages have strides {strides}; tap stages each of which '
                'has twice the stride of the one before'
            )
        width = self.channels
        if width is None:
            width = min(_WIDTH, rehearsal.family.first_box_head(rehearsal.model).in_channels)
        cfg = rehearsal.student_cfg
        self.extractor, self.branch = (
            build_in_scope(dict(part, _scope_=cfg['_scope_']), f'{self.where}: head')
            for part in _light_head(cfg['roi_head'], width, strides)
        )
        self.branch.init_weights()
        for stage in stages:
            self.levels.append(self.adapt(stage.shape[1], width, project))
            self.shapes.append(f'{shape_of(stage)} -> {width} channels')

    def forward(self, lesson) -> dict[str, Tensor]:
        stages = lesson.tap(self.name, self.student_taps)
        pyramid = [level(x) for level, x in zip(self.levels, stages, strict=True)]
        rois = lesson.student.predictions.context[0]
        rows = rois.spread(self.samples)
        rois = rois.at(rows)
        cls, box = self.branch(self.extractor(pyramid, rois.boxes))
        outputs = dict(roi_cls=[cls], roi_box=[box])
        losses = {}
        if self.gt:
            told = replace(lesson.student.predictions, context=(rois,))
            labels = lesson.family.ground_truth_losses(self.branch, outputs, told)
            for name, value in labels.items():
                losses[f'gt_{name}'] = value * (self.weight * self.gt)
        if self.kd:
            match = lesson.match(self.teacher)
            with full_precision(lesson.inputs):
                theirs = lesson.targets(self.teacher).stages[0].at(rows)
                taught = self.criterion.on_rois([self.branch], outputs, [theirs], match)
            for name, value in taught.items():
                losses[f'kd_{name}'] = value * (self.weight * self.kd)
        losses.update(self.feature_losses(lesson))
        return losses


def _light_head(roi_head: dict, width: int, strides: list[int]) -> tuple[dict, dict]:
    """Configs of an extractor and of a narrow box head like those of the student's first stage."""
    # a cascade has one for each stage, or one for all
    extractor, head = (
        x[0] if isinstance(x, (list, tuple)) else x
        for x in (roi_head['bbox_roi_extractor'], roi_head['bbox_head'])
    )
    # a RoI goes to the stage of the stride that the student's own extractor gives it
    ratio = strides[0] / extractor['featmap_strides'][0]
    kept = {'num_classes', 'bbox_coder', 'reg_class_agnostic', 'reg_decoded_bbox'}
    kept |= {'loss_cls', 'loss_bbox'}
    return (
        dict(
            type='SingleRoIExtractor', roi_layer=extractor['roi_layer'], out_channels=width,
            featmap_strides=strides, finest_scale=extractor.get('finest_scale', 56) * ratio,
        ),
        dict(
            type='ConvFCBBoxHead', num_shared_convs=2, with_avg_pool=True, in_channels=width,
            conv_out_channels=width, roi_feat_size=extractor['roi_layer']['output_size'],
            norm_cfg=dict(type='GN', num_groups=group_norm(width).num_groups),
            **{key: value for key, value in head.items() if key in kept},
        ),
    )  # fmt: skip
