"""Whether two dense heads speak of the same priors in the same terms."""

import torch
from torch import nn


def why_priors_differ(ours: nn.Module, theirs: nn.Module) -> str | None:
    """The first thing in which a student's and a teacher's head differ, or ``None``.

    Args:
        ours: the student's head, which has a ``prior_generator``.
        theirs: the teacher's.
    """
    for what, describe in (('priors', _describe_priors), ('box coders', _describe_coder)):
        mine, other = describe(ours), describe(theirs)
        if mine != other:
            return f'{what} differ (student {mine}, teacher {other})'
    return _differing_anchor(ours.prior_generator, theirs.prior_generator)


def _describe_priors(head: nn.Module) -> str:
    generator = head.prior_generator
    anchors = getattr(generator, 'base_anchors', None)
    shape = f'strides {[s[0] for s in generator.strides]}'
    if anchors is None:
        return f'points, {shape}, offset {generator.offset}'
    return f'{len(anchors[0])} anchors a cell, {shape}, ' + ' '.join(
        f'{torch.round((x[:, 2:] - x[:, :2]).mean(0)).int().tolist()}' for x in anchors
    )


def _differing_anchor(ours, theirs) -> str | None:
    """The first anchor that is not the same in both, order included."""
    levels = zip(getattr(ours, 'base_anchors', ()), getattr(theirs, 'base_anchors', ()))
    for level, (mine, other) in enumerate(levels):
        for index, (a, b) in enumerate(zip(mine.tolist(), other.tolist())):
            if not torch.allclose(torch.tensor(a), torch.tensor(b), rtol=1e-4, atol=1e-3):
                sides = (', '.join(f'{x:.1f}' for x in box) for box in (a, b))
                return 'priors differ (anchor {} of level {}: student {}, teacher {})'.format(
                    index, level, *sides
                )
    return None


def _describe_coder(head: nn.Module) -> str:
    coder = getattr(head, 'bbox_coder', head)  # YOLOX decodes by itself
    parts = [type(coder).__name__]
    parts += [f'{k} {tuple(getattr(coder, k))}' for k in ('means', 'stds') if hasattr(coder, k)]
    parts += [f'reg_max {head.reg_max}'] if hasattr(head, 'reg_max') else []
    return ', '.join(parts)
