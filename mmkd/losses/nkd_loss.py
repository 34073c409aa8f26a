from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.labelled import nkd_loss
from .labelled_loss import LabelledLoss


@MODELS.register_module()
class NKDLoss(LabelledLoss):
    """Cross-entropies with the teacher, labelled class and others apart (NKD: ICCV 2023).

    ``- p_y^t log p_y^s - gamma * tau^2 * sum_{i != y} q_i^t log q_i^s`` (Yang et al.), mean over
    rows with a label; p = softmax(z), q = softmax(z / tau) over the other classes. Cross-entropies,
    so equal predictions do not give 0.

    Logits before a softmax: pixels of a segmentor, RoIs of a two-stage head. Published for ImageNet
    (R34 to R18) with weight 1, gamma 1.5, tau 1, beside the ordinary loss; none for detectors and
    segmentors.

    Args:
        gamma: Weight of the distribution over the other classes.
        tau: Its temperature; that of the labelled class is 1.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, gamma: float = 1.5, tau: float = 1.0) -> None:
        super().__init__()
        check_positive('NKDLoss: tau', tau)
        self.gamma, self.tau = gamma, tau

    def compare(self, student, teacher, label, weight, avg_factor):
        return nkd_loss(student, teacher, label, weight, avg_factor, self.gamma, self.tau)
