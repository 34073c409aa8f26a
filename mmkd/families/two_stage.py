"""mmdet's two-stage detectors: Faster, Mask and Cascade R-CNN."""

from contextlib import ExitStack, contextmanager

from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors.two_stage import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import nn

from mmkd.registry import FAMILIES

from .detector import Detector
from .family import Predictions, replaced
from .two_stage_criterion import TwoStageCriterion
from .two_stage_targets import RoIs, TwoStageTargets, box_heads, mask_heads


@FAMILIES.register_module()
class TwoStage(Detector):
    """Two-stage detectors with stock RPN and RoI heads (HTC, Sparse R-CNN and the like are not).

    Final predictions of both models are the RPN's maps, ``cls`` (objectness) ``[B, A, H, W]`` and
    ``box`` ``[B, A*4, H, W]``. A student's are also, stage by stage, ``roi_cls`` ``[R, K+1]``,
    ``roi_box`` ``[R, K*4]`` (``[R, 4]`` where boxes know no class) and ``roi_mask``
    ``[F, K, h, w]`` on its own sampled proposals, which the ``context`` holds as :class:`RoIs`. A
    teacher, which runs first, gives its ``features`` instead: its RoI heads run on the student's
    proposals once these are known, see :class:`TwoStageTargets`.
    """

    specificity = 1
    gives = Detector.gives | {'scores'}  # of objects: FRS takes the RPN's, too

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        if not isinstance(model, TwoStageDetector) or not (model.with_rpn and model.with_roi_head):
            return False
        rpn, roi = type(model.rpn_head), type(model.roi_head)
        return (
            getattr(rpn, 'loss_by_feat', None) is RPNHead.loss_by_feat
            # mmdet's subclasses of these two change what is pooled, sampled or compared
            and roi in (StandardRoIHead, CascadeRoIHead)
            and all(getattr(type(x), 'loss', None) is BBoxHead.loss for x in box_heads(model))
            and all(isinstance(x, FCNMaskHead) for x in mask_heads(model))
        )

    def forward(self, model, inputs, data_samples):
        features = model.extract_feat(inputs)
        cls, box = model.rpn_head(features)
        return Predictions(outputs=dict(cls=list(cls), box=list(box), features=list(features)))

    @contextmanager
    def listen(self, model):
        predictions = Predictions(outputs=dict(cls=[], box=[], roi_cls=[], roi_box=[]))
        outputs = predictions.outputs
        if mask_heads(model):
            outputs['roi_mask'] = []

        def hear_rpn(stock):
            def loss_by_feat(cls, box, *args, **kwargs):
                outputs.update(cls=list(cls), box=list(box))
                return stock(cls, box, *args, **kwargs)

            return loss_by_feat

        def hear_boxes(stock):
            def loss_and_target(cls_score, bbox_pred, rois, *args, **kwargs):
                result = stock(cls_score, bbox_pred, rois, *args, **kwargs)
                outputs['roi_cls'].append(cls_score)
                outputs['roi_box'].append(bbox_pred)
                predictions.context += (RoIs(rois.float(), *result['bbox_targets']),)
                return result

            return loss_and_target

        def hear_masks(stock):
            def loss_and_target(mask_preds, *args, **kwargs):
                outputs['roi_mask'].append(mask_preds)
                return stock(mask_preds, *args, **kwargs)

            return loss_and_target

        rpn = model.rpn_head
        with ExitStack() as stack:
            stack.enter_context(replaced(rpn, loss_by_feat=hear_rpn(rpn.loss_by_feat)))
            for hear, heads in ((hear_boxes, box_heads(model)), (hear_masks, mask_heads(model))):
                for head in heads:
                    method = hear(head.loss_and_target)
                    stack.enter_context(replaced(head, loss_and_target=method))
            yield predictions

    def why_no_logits(self, model):
        if not model.rpn_head.use_sigmoid_cls:
            return f'the {type(model.rpn_head).__name__} classifies by softmax, not by sigmoid'
        for head in box_heads(model):
            name = type(head).__name__
            if getattr(head.loss_cls, 'use_sigmoid', False) or head.custom_cls_channels:
                return f'the {name} does not classify by softmax over classes and background'
            if head.bbox_coder.encode_size != 4:
                return f'the {name} predicts {head.bbox_coder.encode_size} numbers a box, not 4'
        return None

    def check_pair(self, student, teacher, teacher_family):
        if not isinstance(teacher_family, TwoStage):
            return f'the student is a two-stage detector, the teacher {teacher_family.kind} is not'
        return None

    def criterion(self, student, teacher, losses):
        return TwoStageCriterion(student, teacher, losses)

    def targets(self, teacher, outputs, match, lesson):
        return TwoStageTargets(teacher, outputs, match, lesson)

    def why_no_cells(self, model):
        return f"{self.kind}'s RPN tells objects from background only, not their classes"

    def num_classes(self, model):
        return self.first_box_head(model).num_classes

    def first_box_head(self, model: nn.Module) -> nn.Module:
        """The box head that sees the RPN's proposals."""
        return box_heads(model)[0]

    def ground_truth_losses(self, head, outputs, predictions):
        rois = predictions.context[0]
        losses = head.loss(
            outputs['roi_cls'][0], outputs['roi_box'][0], rois.boxes, rois.labels,
            rois.label_weights, rois.box_targets, rois.box_weights,
        )  # fmt: skip
        return {name: value for name, value in losses.items() if 'loss' in name}
