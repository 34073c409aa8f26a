"""Addresses: every form of the grammar, on models that call their modules in every way."""

import pytest
import torch
import torch.nn.functional as F
from toys import (
    det_batch,
    detector,
    distil,
    plain,
    random_teacher,
    seg_batch,
    segmentor,
    total,
)

from mmkd.terms.tap import Capture, Tap


@pytest.fixture(scope='module')
def retina():
    return plain(detector('retina')).train()


@pytest.fixture(scope='module')
def psp():
    return plain(segmentor('psp')).train()


@pytest.fixture(scope='module')
def ocr():
    return plain(segmentor('ocr')).train()


def caught(model, *addresses, passes=1):
    """The tensors at some addresses while the model's real loss runs."""
    batch = det_batch(model) if hasattr(model, 'bbox_head') else seg_batch(model)
    taps = [Tap.parse(address) for address in addresses]
    capture = Capture(model, taps, 'student')
    with capture:
        for _ in range(passes):
            model.loss(*batch)
    return [capture.read(tap) for tap in taps]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs))


@pytest.mark.parametrize(
    'address, path, is_input, picks',
    [
        ('neck', 'neck', False, ()),
        ('neck[0]', 'neck', False, (0,)),
        ('neck[-1]', 'neck', False, (-1,)),
        ('backbone[1:]', 'backbone', False, (slice(1, None),)),
        ('backbone[:2]', 'backbone', False, (slice(None, 2),)),
        ('backbone[:]', 'backbone', False, (slice(None),)),
        ('bbox_head[0][1:3]', 'bbox_head', False, (0, slice(1, 3))),
        ('neck.fpn_convs.0:in', 'neck.fpn_convs.0', True, ()),
        ('neck.fpn_convs.0:in[2]', 'neck.fpn_convs.0', True, (2,)),
    ],
)
def test_grammar(address, path, is_input, picks):
    tap = Tap.parse(address)
    assert (tap.path, tap.is_input, tap.picks) == (path, is_input, picks)


@pytest.mark.parametrize(
    'address',
    ['', 'neck[]', 'neck[1-2]', 'neck[a]', 'neck[0', 'neck[0][1][2]', 'neck:out', 'neck[0]:in',
     'neck..0', '.neck', 'neck ', 'neck[0:2:1]', 3, None],
)  # fmt: skip
def test_what_is_no_address_is_one_line(address):
    with pytest.raises(ValueError, match='is not an address') as error:
        Tap.parse(address)
    assert repr(address) in str(error.value) and '\n' not in str(error.value)


def test_tuples_of_a_module_that_is_called_once(retina):
    inputs, _ = det_batch(retina)
    stages = retina.backbone(inputs)
    levels = retina.neck(stages)
    everything, second, last, tail, fed, picked = caught(
        retina, 'neck', 'neck[1]', 'neck[-1]', 'neck[1:]', 'neck:in', 'neck:in[2:]'
    )
    assert same(everything, levels) and len(levels) == 3
    assert same(second, levels[1:2]) and same(last, levels[2:]) and same(tail, levels[1:])
    assert same(fed, stages) and same(picked, stages[2:])


def test_input_of_an_fpn_conv_is_the_top_down_sum(retina):
    inputs, _ = det_batch(retina)
    stages = retina.backbone(inputs)[1:]
    lateral = [conv(x) for conv, x in zip(retina.neck.lateral_convs, stages)]
    middle = lateral[1] + F.interpolate(lateral[2], size=lateral[1].shape[2:])
    finest = lateral[0] + F.interpolate(middle, size=lateral[0].shape[2:])
    fed = caught(retina, *(f'neck.fpn_convs.{i}:in' for i in range(3)))
    for got, expected in zip(fed, (finest, middle, lateral[2]), strict=True):
        torch.testing.assert_close(got[0], expected, rtol=0, atol=0)


def test_a_head_that_runs_once_per_level(retina):
    inputs, _ = det_batch(retina)
    levels = retina.extract_feat(inputs)
    tower = [retina.bbox_head.cls_convs[0](x) for x in levels]
    address = 'bbox_head.cls_convs.0'
    everything, middle, both, fed = caught(
        retina, address, f'{address}[1]', f'{address}[0:2]', f'{address}:in[2]'
    )
    assert same(everything, tower) and same(middle, tower[1:2])
    assert same(both, tower[:2]) and same(fed, levels[2:])


def test_two_brackets_on_a_tuple_of_lists(retina):
    inputs, _ = det_batch(retina)
    cls, box = retina.bbox_head(retina.extract_feat(inputs))
    scores, one, boxes = caught(retina, 'bbox_head[0]', 'bbox_head[0][1]', 'bbox_head[1][1:]')
    assert same(scores, cls) and same(one, cls[1:2]) and same(boxes, box[1:])


def test_a_module_list_that_is_called(psp):
    both, first, member = caught(
        psp, 'decode_head.psp_modules', 'decode_head.psp_modules[0]', 'decode_head.psp_modules.0'
    )
    assert len(both) == 2 and same(first, both[:1])
    assert member[0].shape[-2:] == (1, 1) and first[0].shape[-2:] == both[1].shape[-2:]


def test_first_bracket_picks_the_call_where_tuples_are_returned_several_times(psp):
    address = 'decode_head.psp_modules'
    second, tail = caught(psp, f'{address}[1][0]', f'{address}[1][1:]', passes=2)
    assert len(second) == 1 and len(tail) == 1
    with pytest.raises(ValueError, match=r'write \[call\]\[item\]'):
        caught(psp, f'{address}[1]', passes=2)


def test_the_first_head_of_a_cascade_runs_twice(ocr):
    twice, first, second, last = caught(
        ocr, 'decode_head.0.convs', 'decode_head.0.convs[0]', 'decode_head.0.conv_seg[1]',
        'decode_head.1.bottleneck',
    )  # fmt: skip
    assert len(twice) == 2 and same(first, twice[:1])
    assert len(second) == 1 and len(last) == 1


@pytest.mark.parametrize(
    'address, hint',
    [
        ('nekc', 'nearest names: neck'),
        ('neck.fpn_conv.0', r'nearest names: neck\.fpn_convs'),
        ('zzz', 'its parts: .*backbone'),
        ('neck.fpn_convs', r'never fires; a ModuleList is not called itself.*neck\.fpn_convs\.0'),
        ('bbox_head.loss_cls[7]', 'points outside what is there: 3 values'),
        ('neck[7]', 'points outside what is there: 3 values'),
        ('neck[5:]', 'points outside'),
        ('neck[0][0]', 'points outside what is there: a single tensor'),
    ],
)
def test_mistakes_are_one_line(retina, address, hint):
    with pytest.raises(ValueError, match=hint) as error:
        caught(retina, address)
    assert repr(address) in str(error.value) and '\n' not in str(error.value)


def test_a_decode_head_never_fires_and_says_so(psp):
    with pytest.raises(ValueError, match=r'not called as a module in training.*LogitKD'):
        caught(psp, 'decode_head')


def test_keyword_arguments_count_as_inputs():
    class Called(torch.nn.Module):
        def forward(self, x, scale=1):
            return x * scale

    class Caller(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Called()

        def forward(self, x):
            return self.inner(x=x)

    model, tap, x = Caller(), Tap.parse('inner:in'), torch.ones(1, 2, 3, 3)
    capture = Capture(model, [tap], 'student')
    with capture:
        model(x)
    assert capture.read(tap)[0] is x


def test_stops_after_so_many_firings(retina):
    inputs, _ = det_batch(retina)
    tap = Tap.parse('backbone.layer2')
    capture = Capture(retina, [tap], 'teacher', stop_after=1)
    reached = []
    handle = retina.backbone.layer3.register_forward_hook(lambda *a: reached.append(1))
    with capture:
        retina.extract_feat(inputs)
        raise AssertionError('the forward pass went on')
    handle.remove()
    assert not reached and len(capture.read(tap)) == 1
    assert not retina.backbone.layer2._forward_hooks


def test_notices_tensors_that_are_changed_in_place(retina):
    # a block's last batch norm is added to the shortcut in place
    taps = [Tap.parse('backbone.layer1.0.bn2'), Tap.parse('neck')]
    capture = Capture(retina, taps, 'student')
    with capture:
        retina.loss(*det_batch(retina))
    assert capture.changed_in_place() == {'backbone.layer1.0.bn2'}


def test_a_tensor_that_is_changed_in_place_is_taught_as_the_module_gave_it():
    model = distil(
        segmentor(), teacher=random_teacher(segmentor()),
        terms=dict(f=dict(type='FeatureKD', tap='backbone.layer1.0.bn2')),
    )  # fmt: skip
    tap = Tap.parse('backbone.layer1.0.bn2')
    inputs, samples = seg_batch(model)
    with model.distillation.listen(model) as (heard, _):
        model.extract_feat(inputs)
    fed = Capture(model, [Tap.parse('backbone.layer1.0.bn2:in')], 'student')
    with fed:
        model.extract_feat(inputs)
    x = fed.read(Tap.parse('backbone.layer1.0.bn2:in'))[0]
    expected = F.batch_norm(
        x, None, None, model.backbone.layer1[0].bn2.weight, model.backbone.layer1[0].bn2.bias, True
    )
    torch.testing.assert_close(heard.capture.read(tap)[0], expected)
    total(model.loss(inputs, samples)).backward()


def with_checkpointing(with_cp, tap):
    model = distil(
        detector(backbone=dict(with_cp=with_cp)), teacher=random_teacher(detector(width=16)),
        terms=dict(f=dict(type='FeatureKD', tap=tap)),
    )  # fmt: skip
    return model


@pytest.mark.parametrize('tap', ['backbone[1:]', 'backbone.layer2.1'])
def test_activation_checkpointing_changes_nothing(tap):
    gradients = []
    for with_cp in (True, False):
        model = with_checkpointing(with_cp, tap)
        losses = model.loss(*det_batch(model))
        total(losses).backward()
        assert not model.backbone.layer2[1]._forward_hooks
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_capture_is_closed_before_a_block_is_recomputed():
    model = plain(detector(backbone=dict(with_cp=True))).train()
    tap = Tap.parse('backbone.layer2.0.conv1')
    capture = Capture(model, [tap], 'student')
    recomputed = []
    with capture:
        losses = model.loss(*det_batch(model))
    handle = model.backbone.layer2[0].conv1.register_forward_hook(lambda *a: recomputed.append(1))
    total(losses).backward()
    handle.remove()
    assert recomputed and capture.firings == 1


def test_a_tap_inside_a_checkpointed_block_is_refused():
    with pytest.raises(ValueError, match=r"term 'f': tap .*layer2.0.conv1.* no gradient.*with_cp"):
        with_checkpointing(True, 'backbone.layer2.0.conv1')
