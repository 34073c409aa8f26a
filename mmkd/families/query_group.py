"""A teacher's queries in the student's decoder."""

from mmdet.models.detectors import DABDETR, DETR, DINO, DeformableDETR
from torch import Tensor, nn


class TeacherQueries(nn.Module):
    """Asks the student's decoder what it sees at the teacher's queries.

    As in KD-DETR (Wang et al., CVPR 2024) with the teacher's own ("specific") queries: one more
    group that sees only itself. That is one more pass of the decoder over the same encoded image,
    and leaves the student's own queries alone. Content and positions that are embeddings go through
    a linear map where the models' widths differ; points and boxes are taken as they are.

    Args:
        student: the student.
        teacher: the teacher.

    Raises:
        ValueError: if the two decoders are told their queries in different ways.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        ours, theirs = _described(student), _described(teacher)
        if ours != theirs:
            raise ValueError(
                f"LogitKD: matching='queries': the decoder of the student {type(student).__name__} "
                f'takes {ours}, that of the teacher {type(teacher).__name__} {theirs}; use '
                "matching='hungarian'"
            )
        widths = teacher.embed_dims, student.embed_dims
        self.maps = nn.ModuleDict()
        if widths[0] != widths[1]:
            for name in _embedded(student):
                self.maps[name] = nn.Linear(*widths, bias=False)

    def forward(self, inputs: dict[str, Tensor], memory: Tensor, lesson) -> tuple[Tensor, Tensor]:
        """Class logits ``[L, B, Q, K]`` and boxes ``[L, B, Q, 4]`` of the teacher's Q queries.

        Args:
            inputs: what the teacher's decoder was given for them.
            memory: the student's encoded image.
            lesson: the training step.
        """
        model, context = lesson.student_model, lesson.student.predictions.context
        with context.autocast():
            queries = {
                name: self.maps[name](x) if name in self.maps else x for name, x in inputs.items()
            }
            told = {**context.decoder, **queries, 'memory': memory}
            if 'dn_mask' in told:  # which of the student's own queries see each other
                told['dn_mask'] = None
            return model.bbox_head(**model.forward_decoder(**told))


def _embedded(model: nn.Module) -> tuple[str, ...]:
    """Names of a decoder's inputs that are as wide as the model."""
    return ('query',) if isinstance(model, (DABDETR, DINO)) else ('query', 'query_pos')


def _described(model: nn.Module) -> str:
    """How a model's decoder is told its queries."""
    if isinstance(model, DABDETR):
        return f'content and {model.query_dim} coordinates'
    if isinstance(model, DINO):
        return 'content and reference boxes'
    if isinstance(model, DeformableDETR):
        return 'content, positions and reference points or boxes'
    assert isinstance(model, DETR)
    return 'content and positions'
