from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_count, check_positive
from .functional.fbkd import fbkd_loss
from .non_local import NonLocal


@MODELS.register_module()
class FBKDLoss(nn.Module):
    """Attended features, pooled features and non-local relations (FBKD: Zhang and Ma, ICLR 2021).

    ``alpha * masked + beta * (channel + spatial) + gamma * relation``, see
    :func:`mmkd.losses.functional.fbkd_loss`, summed over levels. Each is a plain L2 norm over the
    rank's whole batch, so several processes differ from one on the concatenated batch. All that
    joins the two is trained: 1x1 convolutions, a linear layer, a 3x3 convolution from one channel
    to one, and a non-local block for the student and for the teacher.

    Features are masked by spatial and by channel attention, as in the paper; the released codes
    leave the channel attention out. The mean of the two networks' attentions is taken as there. The
    student's channels are attended to after its 1x1 convolution, so that widths may differ. Mended
    here: a norm's slope at 0; padded and ignored cells are out of every part.

    Published: two-stage tau=0.1, alpha=gamma=7e-5, beta=4e-3 (the defaults; MMRazor has tau=0.5);
    one-stage tau=0.5, alpha=gamma=4e-4, beta=2e-2. The weights of the first are those of released
    code, the rest is quoted, not read again in the paper.

    Args:
        tau: Temperature of the attentions.
        alpha: Of the masked features.
        beta: Of the pooled features.
        gamma: Of the relations.
        pool: By level, the finest first: side of what makes one key of the non-local block. The
            last holds for all further levels.
        reduction: As pool: how many times narrower than its map the block is.

    Raises:
        ValueError: If tau, or an entry of pool or reduction, is not positive.
    """

    any_channels = True
    takes_levels = True

    def __init__(
        self,
        tau: float = 0.1,
        alpha: float = 7e-5,
        beta: float = 4e-3,
        gamma: float = 7e-5,
        pool: tuple[int, ...] = (8, 4, 2),
        reduction: tuple[int, ...] = (4, 4, 2),
    ) -> None:
        super().__init__()
        check_positive('FBKDLoss: tau', tau)
        for name, values in (('pool', pool), ('reduction', reduction)):
            for value in values or (0,):
                check_count(f'FBKDLoss: {name}', value)
        self.ratios = dict(tau=tau, alpha=alpha, beta=beta, gamma=gamma)
        self.pool = pool
        self.reduction = reduction

    def prepare(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Make each level's blocks from the student's channels and the teacher's."""
        self.blocks = nn.ModuleList()
        for level, (mine, other) in enumerate(zip(student, teacher)):
            pool, reduction = (
                values[min(level, len(values) - 1)] for values in (self.pool, self.reduction)
            )
            ours, theirs = mine.shape[1], other.shape[1]
            blocks = dict(
                adapt=nn.Conv2d(ours, theirs, 1),
                channel=nn.Linear(ours, theirs),
                spatial=nn.Conv2d(1, 1, 3, padding=1),
                student_relation=NonLocal(ours, max(ours // reduction, 1), pool),
                teacher_relation=NonLocal(theirs, max(theirs // reduction, 1), pool),
                relation=nn.Conv2d(ours, theirs, 1),
            )
            self.blocks.append(nn.ModuleDict(blocks))

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: list[Tensor] | None = None,
        **context,
    ) -> Tensor:
        """Compare pyramids.

        Args:
            student: By level [B, C, H, W], the finest first.
            teacher: By level [B, C', H, W].
            mask: By level [B, H, W] or [B, 1, H, W] weights of cells.
            **context: Not used.

        Returns:
            Scalar, in units of the feature.
        """
        masks = [None] * len(student) if mask is None else mask
        levels = zip(student, teacher, self.blocks, masks, strict=True)
        return sum(fbkd_loss(*level, **self.ratios) for level in levels)
