"""Vanilla KD of mask classification, pixel by pixel."""

from torch import Tensor, nn

from mmkd.losses.functional.mask_query import semantic_logits


class SemanticCollapse(nn.Module):
    """KL between what both models say of each pixel; no queries are matched.

    A student's layer is collapsed into ``S_k = sum_q softmax(c_q)_k sigmoid(m_q)``, no object
    dropped, divided by its sum over classes. The teacher's distribution is its last layer's
    collapse, or the softmax of a teacher that predicts pixel by pixel: any segmentor may teach.
    Masks have stride 4, so that is where the two meet, or at the teacher's coarser size. The mean
    over layers is taken, so that a weight means the same for any number of them.

    Args:
        layers: indices of the student's predictions.
        pixels: the criterion of pixels, whose ``loss_seg`` this gives.
    """

    def __init__(self, layers: tuple[int, ...], pixels: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.pixels = pixels

    def forward(self, student: dict, teacher: dict, match, lesson) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            student: by layer, ``query`` logits ``[B, Q, K + 1]`` and ``mask`` logits
                ``[B, Q, h, w]``.
            teacher: ``dict(seg=[logits [B, K', h', w']])``.
            match: which classes both know.
            lesson: the training step.
        """
        total = 0.0
        for layer in self.layers:
            seg = semantic_logits(student['query'][layer], student['mask'][layer])
            total = total + self.pixels(dict(seg=[seg]), teacher, match, lesson)['loss_seg']
        return dict(loss_seg=total / len(self.layers))
