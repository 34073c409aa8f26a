from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.labelled import dkd_loss
from .labelled_loss import LabelledLoss


@MODELS.register_module()
class DKDLoss(LabelledLoss):
    """KD of the labelled class and of the others with a weight each (DKD: Zhao et al., CVPR 2022).

    ``tau^2 * (alpha * KL(b_t || b_s) + beta * KL(q_t || q_s))``, mean over rows with a label;
    b = (p_y, 1 - p_y), q = softmax over the other classes. Plain KL weighs the second by the
    teacher's 1 - p_y, so it hears little where the teacher is sure.

    Logits before a softmax: pixels of a segmentor, RoIs of a two-stage head, whose background may
    be the label; for sigmoid heads take BinaryKLDivergence, which decouples the classes by itself.
    Published with weight 1: COCO (Faster R-CNN) alpha 1, beta 0.25, tau 1; ImageNet (R34 to R18)
    1, 0.5, 1; CIFAR 1, 8, 4, with the loss warmed up (``schedule=dict(warmup=...)``). None for
    segmentors. The authors' code takes a logarithm of a clamped sum of probabilities and subtracts
    1000 from the labelled logit; here both parts come from log-sum-exp.

    Args:
        alpha: Weight of the labelled class against all others.
        beta: Weight of the distribution over the others.
        tau: Temperature.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.25, tau: float = 1.0) -> None:
        super().__init__()
        check_positive('DKDLoss: tau', tau)
        self.alpha, self.beta, self.tau = alpha, beta, tau

    def compare(self, student, teacher, label, weight, avg_factor):
        return dkd_loss(
            student, teacher, label, weight, avg_factor, self.alpha, self.beta, self.tau
        )
