"""What holds for every registered loss: precision, masks, empty input, messages."""

import pytest
import torch

import mmkd.losses
from mmkd.losses import __all__ as names
from mmkd.losses.functional.common import full_precision
from mmkd.registry import MODELS

MAPS = ('KLDivergence', 'BinaryKLDivergence', 'KDQualityFocalLoss', 'FeatureMSE', 'PKDLoss')
MAPS = (*MAPS, 'ChannelWiseDivergence', 'DKDLoss', 'NKDLoss', 'OFALoss', 'DISTLoss')
MAPS = (*MAPS, 'ATLoss', 'CosineFeatureLoss', 'PairwiseAffinityLoss')
MAPS = (*MAPS, 'IFVLoss', 'CrossImagePixelLoss', 'CrossImageMemoryLoss', 'AfDCDLoss')
MAPS = (*MAPS, 'FGDLoss', 'MGDLoss', 'FBKDLoss', 'ReviewKDLoss', 'DeFeatLoss', 'FRSLoss')


# What is drawn at random has tests of its own.
ARGUMENTS = dict(
    MGDLoss=dict(mask_ratio=0.0),
    AfDCDLoss=dict(mask_ratio=0.0),
    CrossImageMemoryLoss=dict(pixel_queue=32, pixel_keys=10**4, region_queue=8),
)


def build(name):
    """The loss with what it trains, always the same; one that takes levels is given one."""
    loss = MODELS.build(dict(type=f'mmkd.{name}', **ARGUMENTS.get(name, {})))
    levels = getattr(loss, 'takes_levels', False)
    if hasattr(loss, 'prepare'):
        x = torch.zeros(shape_of(name))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            known = {k: v for k, v in context_of(name).items() if k == 'num_classes'}
            loss.prepare(*(([x], [x]) if levels else (x, x)), **known)
    if levels:
        loss.register_forward_pre_hook(as_one_level, with_kwargs=True)
    return loss


def as_one_level(loss, maps, context):
    per_level = {name: [context[name]] for name in ('mask', 'label', 'scores') if name in context}
    return tuple([x] for x in maps), context | per_level


def shape_of(name, rows=2):
    return torch.Size((rows, 3, 4, 5) if name in MAPS else (rows * 20, 4))


def sample(name):
    x = torch.randn(shape_of(name))
    return x.sort(dim=1).values if name == 'BoxKDLoss' else x


def mask_of(shape):
    return torch.rand(shape[0], *shape[2:]) > 0.5


def context_of(name, rows=2):
    """What the loss asks for, of maps that cover a canvas at stride 8."""
    shape = shape_of(name, rows)
    cells = (shape[0], *shape[2:])
    count = shape[0] * shape[2:].numel()
    known = dict(
        label=torch.arange(count).view(cells) % shape[1],
        num_classes=shape[1],
        boxes=[torch.tensor([[2.0, 3.0, 20.0, 18.0]])] * shape[0],
        canvas=tuple(8 * side for side in shape[2:]),
        scores=torch.linspace(0.1, 0.9, count).view(shape[0], 1, *shape[2:]),
    )
    return {key: known[key] for key in getattr(getattr(mmkd.losses, name), 'asks', ())}


def test_all_are_registered():
    for name in names:
        assert type(build(name)) is getattr(mmkd.losses, name)


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('name', names)
def test_half_precision_at_large_magnitude(name, masked, dtype, autocast):
    shape = shape_of(name)
    student = (1e4 * sample(name)).to(dtype).requires_grad_()
    teacher = (1e4 * sample(name)).to(dtype)
    context = context_of(name) | (dict(mask=mask_of(shape)) if masked else {})
    with torch.autocast('cpu', dtype=dtype, enabled=autocast):
        loss = build(name)(student, teacher, **context)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite() and loss > 0
    assert student.grad.isfinite().all()
    exact = build(name)(student.detach().float(), teacher.float(), **context)
    assert torch.equal(loss.detach(), exact)


def test_full_precision_reaches_what_autocast_lowers():
    @full_precision
    def product(student, teacher):
        return (student @ teacher).sum()

    x, y = torch.full((1, 1), 1.001), torch.full((1, 1), 3.0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert (x @ y).dtype == torch.bfloat16
        assert product(x, y).item() == pytest.approx(3.003)
        assert torch.is_autocast_enabled('cpu')


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('name', names)
def test_what_the_mask_leaves_out_cannot_be_felt(name, bad):
    shape = shape_of(name)
    mask = mask_of(shape)
    student, teacher = sample(name), sample(name)
    out = ~mask.unsqueeze(1)
    results = []
    for fill in (0.0, bad):
        x = student.masked_fill(out, fill).requires_grad_()
        loss = build(name)(x, teacher.masked_fill(out, fill), mask=mask, **context_of(name))
        loss.backward()
        assert torch.equal(x.grad.masked_fill(~out, 0), torch.zeros(shape))
        results.append((loss.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][1].abs().sum() > 0


@pytest.mark.parametrize('fill', [1.0, float('nan'), float('inf')])
@pytest.mark.parametrize('name', names)
def test_nothing_valid_gives_zero_with_a_graph(name, fill):
    student = torch.full(shape_of(name), fill, requires_grad=True)
    mask = torch.zeros(shape_of(name)[:1] + shape_of(name)[2:])
    loss = build(name)(student, torch.randn(shape_of(name)), mask=mask, **context_of(name))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('name', names)
def test_no_rows_give_zero_with_a_graph(name, masked):
    shape = shape_of(name, rows=0)
    student = torch.zeros(shape, requires_grad=True)
    context = context_of(name, rows=0) | (dict(mask=mask_of(shape)) if masked else {})
    loss = build(name)(student, torch.zeros(shape), **context)
    loss.backward()
    assert loss.item() == 0 and student.grad.shape == shape


@pytest.mark.parametrize('name', names)
def test_full_mask_is_no_mask(name):
    shape = shape_of(name)
    student, teacher = sample(name), sample(name)
    context = context_of(name)
    full = torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    masked = build(name)(student, teacher, mask=full, **context)
    torch.testing.assert_close(masked, build(name)(student, teacher, **context))


@pytest.mark.parametrize('name', names)
def test_shapes_that_do_not_fit(name):
    shape, context = tuple(shape_of(name)), context_of(name)
    other = (*shape[:-1], shape[-1] + 1)  # not the channels of maps, where some losses take any
    with pytest.raises(ValueError) as error:
        build(name)(torch.zeros(shape), torch.zeros(other), **context)
    message = str(error.value)
    assert str(shape) in message and str(other) in message and '\n' not in message
    wrong = (shape[0] + 1, *shape[2:])
    with pytest.raises(ValueError) as error:
        build(name)(torch.zeros(shape), torch.zeros(shape), mask=torch.ones(wrong), **context)
    message = str(error.value)
    assert str(shape) in message and str(wrong) in message and '\n' not in message


@pytest.mark.parametrize('name', names)
def test_unknown_context_is_ignored_and_the_teacher_has_no_gradient(name):
    student = sample(name).requires_grad_()
    teacher = sample(name).requires_grad_()
    build(name)(student, teacher, not_asked_for=None, **context_of(name)).backward()
    assert teacher.grad is None and student.grad is not None
