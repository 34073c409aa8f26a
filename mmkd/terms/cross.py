"""What goes on through a frozen teacher's towers: CrossKD's term, and the exit of stages."""

from torch import Tensor, nn

from mmkd.registry import build

from .tap import Tap
from .term import Term, full_precision


def tower_taps(part: Term, family, model: nn.Module, start: int, who: str = 'teacher'):
    """Where maps leave or enter the class and the box tower after ``start`` convolutions.

    Args:
        part: a term or an exit.
        family: a family that knows the model.
        model: the teacher or the student.
        start: a number of convolutions.
        who: which of the two, named in an error.

    Returns:
        a tap for each tower, and their channels.

    Raises:
        ValueError: if there are none, they have fewer, or are run in a way of their own.
    """
    if not hasattr(family, 'towers'):
        raise ValueError(
            f'{part.where}: the {who} {type(model).__name__} has no towers; use SemanticExit'
        )
    try:
        addresses, width = family.towers(model, start, who)
    except ValueError as error:
        raise ValueError(f'{part.where}: {error}') from error
    return [Tap.parse(address) for address in addresses], width


def cross_losses(part: Term, features, levels: tuple[int, ...], lesson) -> dict[str, Tensor]:
    """Losses of what the teacher's layers make of a student's maps, by name.

    Args:
        part: a term or an exit with ``start``, ``criterion`` and teacher taps by tower.
        features: for the class and for the box tower, by level ``[B, C, H, W]``.
        levels: which of the head's levels they are.
        lesson: the training step.
    """
    capture = lesson.teacher(part.teacher).capture
    theirs = [capture.read(tap) for tap in part.teacher_taps]
    model, family = lesson.frozen(part.teacher)
    outputs = family.cross_outputs(model, features, levels, part.start, theirs)
    with full_precision(lesson.inputs):
        return part.criterion(
            outputs, lesson.targets(part.teacher), lesson.match(part.teacher), lesson,
            teacher_head=model.bbox_head, levels=levels,
        )  # fmt: skip


def enter_tower(in_channels: int, width: int) -> nn.Module:
    """A 1x1 convolution; the alignment takes each channel's mean away, and a bias with it."""
    return nn.Conv2d(in_channels, width, 1, bias=False)


def join_channels(part: Term, adapter, in_channels: int, width: int, join) -> nn.Module:
    """The user's adapter, none where channels are equal, or the one that ``join`` makes.

    Args:
        part: a term or an exit.
        adapter: ``'auto'``, ``None``, or the config of one built with ``in_channels`` and
            ``out_channels``.
        in_channels: of the student's map.
        width: of what it has to fit.
        join: makes an adapter of the two.

    Raises:
        ValueError: if channels differ and the user wants none.
    """
    if adapter not in ('auto', None):
        channels = dict(in_channels=in_channels, out_channels=width)
        return build(adapter, f'{part.where}: adapter', **channels)
    if in_channels == width:
        return nn.Identity()
    if adapter is None:
        raise ValueError(
            f'{part.where}: a stage has {in_channels} channels, the head {width}, and '
            "adapter=None; use adapter='auto'"
        )
    return join(in_channels, width)
