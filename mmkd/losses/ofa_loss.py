from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.labelled import ofa_loss
from .labelled_loss import LabelledLoss


@MODELS.register_module()
class OFALoss(LabelledLoss):
    """Cross-entropy with the teacher, the label's class boosted (OFA-KD: Hao et al., NeurIPS 2023).

    ``- sum_k [(p_t,k + [k = y])^eps - [k = y]] log p_s,k``, mean over rows with a label; softmax
    without temperature. At eps 1 it is cross-entropy with the teacher's probabilities; above, the
    labelled class counts ``(1 + p)^eps - 1``, the more the surer the teacher, and all others
    ``p^eps``, less than p. The smallest value is not 0.

    Logits before a softmax. Published for exits after every stage, each at weight 1 and without
    labels of its own, and for the final logits at weight 1; eps 1 (CIFAR) to 1.5 (ImageNet, DeiT-T
    to R18), none for segmentors. This is the authors' code; their paper, as it is usually cited,
    raises the labelled class alone and keeps the label's own cross-entropy inside, which the
    student has already.

    Args:
        eps: Exponent.

    Raises:
        ValueError: If eps is not positive.
    """

    def __init__(self, eps: float = 1.0) -> None:
        super().__init__()
        check_positive('OFALoss: eps', eps)
        self.eps = eps

    def compare(self, student, teacher, label, weight, avg_factor):
        return ofa_loss(student, teacher, label, weight, avg_factor, self.eps)
