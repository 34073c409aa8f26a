from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.correlation import dist_loss
from .row_loss import RowLoss


@MODELS.register_module()
class DISTLoss(RowLoss):
    """1 - Pearson correlation with the teacher's probabilities (DIST: Huang et al., NeurIPS 2022).

    ``tau^2 * (inter * mean_rows(1 - rho(Y_s[m], Y_t[m])) + intra * mean_classes(1 - rho(Y_s[:, k],
    Y_t[:, k])))`` with Y = softmax(z / tau), or sigmoid; rho as in the published code has 1e-8
    added to the norms. What is constant correlates with nothing: it counts 1, without gradient
    (there the published slope is 1e8).

    Rows are pixels, RoIs or cells. Ignored and padded rows are out, which the published code keeps
    in. With a mask the divisor of the first part is its sum averaged over ranks; the second part is
    rank-local: its correlations are those of the rank's own rows, so several processes differ from
    one on the concatenated batch.

    Published with weight 1, both parts 1: segmentors by ``LogitKD(loss_seg=dict(type='DISTLoss'))``
    (Cityscapes); RetinaNet with ``activation='sigmoid'`` by FeatureKD on the raw class maps
    [B, A * K, H, W] of each level (``tap='bbox_head.retina_cls', adapter=None``), whose A * K
    channels count as classes; RoI heads, softmax over K + 1.

    Args:
        inter_loss_weight: Weight of the part across classes.
        intra_loss_weight: Weight of the part across rows.
        tau: Temperature.
        activation: 'softmax' over dim 1, or 'sigmoid'.

    Raises:
        ValueError: If tau is not positive, or the activation is another.
    """

    def __init__(
        self,
        inter_loss_weight: float = 1.0,
        intra_loss_weight: float = 1.0,
        tau: float = 1.0,
        activation: str = 'softmax',
    ) -> None:
        super().__init__()
        check_positive('DISTLoss: tau', tau)
        if activation not in ('softmax', 'sigmoid'):
            raise ValueError(f"DISTLoss: activation={activation!r} must be 'softmax' or 'sigmoid'")
        self.inter_loss_weight, self.intra_loss_weight = inter_loss_weight, intra_loss_weight
        self.tau, self.activation = tau, activation

    def compare(self, student, teacher, weight, avg_factor):
        return dist_loss(
            student,
            teacher,
            weight,
            avg_factor,
            self.inter_loss_weight,
            self.intra_loss_weight,
            self.tau,
            self.activation,
        )
