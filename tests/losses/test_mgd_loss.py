import pytest
import torch
from plain_maths import cells, conv, each, masked, randomised

from mmkd.losses import MGDLoss
from mmkd.losses.functional import mgd_loss


def prepared(channels, **arguments):
    loss = MGDLoss(**arguments)
    loss.prepare(torch.zeros(1, channels, 1, 1), torch.zeros(1, channels, 1, 1))
    return loss


def mgd(generate, keep, mask):
    def reference(student, teacher):
        student, teacher = masked(student, mask), masked(teacher, mask)
        hidden = each(lambda v: max(v, 0.0), conv(masked(student, keep), generate[0]))
        made = conv(hidden, generate[2])
        total = 0.0
        for image, other, m in zip(made, teacher, mask):
            for plane, target in zip(image, other):
                total += sum(m[i][j] * (plane[i][j] - target[i][j]) ** 2 for i, j in cells(m))
        return total / len(student)

    return reference


@pytest.mark.parametrize('with_mask', [False, True])
def test_against_python(agrees_with, with_mask):
    mask, keep = torch.ones(2, 3, 3), torch.rand(2, 3, 3) > 0.4
    if with_mask:
        mask[0, :, 2] = mask[1, 0] = 0
        mask[0, 0, 0] = 0.25
    convs = randomised(prepared(2).generate.convs)
    given = dict(mask=mask[:, None]) if with_mask else {}
    agrees_with(
        lambda s, t: mgd_loss(s, t, lambda x: convs.to(x.dtype)(x * keep[:, None]), **given),
        mgd(convs, keep.tolist(), mask.tolist()),
        torch.randn(2, 2, 3, 3),
        torch.randn(2, 2, 3, 3),
    )


def test_written_out():
    # Twice the kept cell, less the teacher's 1: (2 * 3 - 1)^2 and (0 - 1)^2, over 2 images.
    student, teacher = torch.full((2, 1, 1, 1), 3.0), torch.ones(2, 1, 1, 1)
    keep = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    value = mgd_loss(student, teacher, lambda x: 2 * x * keep)
    assert value.item() == pytest.approx((25 + 1) / 2)


def test_the_share_that_is_erased():
    loss, seen = prepared(1, mask_ratio=0.65), []
    loss.generate.convs = torch.nn.Identity()
    loss.generate.convs.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss(torch.ones(4, 2, 50, 50), torch.zeros(4, 2, 50, 50))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.65, abs=0.02)
    assert torch.equal(seen[0][:, 0], seen[0][:, 1])  # all channels of a cell together


def test_one_state_of_the_generator_erases_the_same():
    loss, student, teacher = prepared(2), torch.randn(1, 2, 5, 5), torch.randn(1, 2, 5, 5)
    state = torch.get_rng_state()
    first, second = loss(student, teacher), loss(student, teacher)
    assert first != second
    torch.set_rng_state(state)
    assert loss(student, teacher) == first


@pytest.mark.parametrize('ratio', [-0.1, 1.0, float('nan')])
def test_bad_argument(ratio):
    with pytest.raises(ValueError, match=r'MGDLoss: mask_ratio=.* must be in \[0, 1\)'):
        MGDLoss(mask_ratio=ratio)
