"""A compiled teacher says the same, whatever is listened to."""

import copy
import pickle

import pytest
import torch
from toys import batch_for, detector, distil, lively, plain, save, segmentor, total

from mmkd.distillers.summary import summarise

# All that can change from step to step: taps come and go, with them the depth, and the image size.
TERMS = dict(
    det=dict(
        late=dict(type='LogitKD', schedule=dict(begin=201)),
        stage=dict(type='FeatureKD', tap='backbone.layer3'),
        inner=dict(type='FeatureKD', tap='neck.fpn_convs.0:in', schedule=dict(end=201)),
    ),
    seg=dict(
        early=dict(type='LogitKD', schedule=dict(end=201)),
        stage=dict(type='FeatureKD', tap='backbone.layer2'),
        inner=dict(type='FeatureKD', tap='backbone.layer3.0.conv1', schedule=dict(begin=201)),
    ),
)
EXITS = dict(det=dict(cross=dict(type='CrossExit', tap='backbone[1:]', start=1)), seg=None)
STEPS = [(200, 64), (200, 64), (201, 64), (202, 96), (203, 64)]  # iteration, height in pixels
COMPILED = dict(
    det=['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4'],
    seg=['backbone.layer1', 'backbone.layer2', 'backbone.layer3.0.downsample',
         'backbone.layer3.1', 'backbone.layer4', 'decode_head'],
)  # fmt: skip


class Backend:
    """Runs graphs as they were traced; counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph, inputs):
        def run(*args):
            self.runs += 1
            return graph(*args)

        return run


def teach(kind, path, terms=None, exits=None, **options):
    make = dict(det=detector, seg=segmentor)[kind]
    teacher = dict(config=make(width=16), checkpoint=path, classes='same', **options)
    return distil(make(), teacher=teacher, terms=terms or TERMS[kind], exits=exits or EXITS[kind])


@pytest.fixture(params=['det', 'seg'])
def kind(request):
    return request.param


@pytest.fixture
def path(kind, tmp_path):
    make = dict(det=detector, seg=segmentor)[kind]
    return save(lively(plain(make(width=16))), tmp_path / 't.pth')


def test_it_says_the_same_whatever_is_listened_to(kind, path):
    """Bit for bit, since this backend computes what was traced; and it is the graphs that run."""
    backend = Backend()
    reference, compiled = teach(kind, path), teach(kind, path, compile=dict(backend=backend))
    teacher = compiled.distillation.teachers[None]
    assert teacher.difference == 0
    found = [n for n, m in teacher.model.named_modules() if 'forward' in m.__dict__]
    assert found == COMPILED[kind]
    for iteration, height in STEPS:
        backend.runs = 0
        gradients = []
        for model in (reference, compiled):
            model.distillation.iteration = iteration
            batch = batch_for(model, shapes=((height, 64),) * 2)
            model.zero_grad()
            losses = model.loss(*batch)
            total(losses).backward()
            grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            gradients.append((total(losses), grads))
        (expected, ours), (got, theirs) = gradients
        assert torch.equal(got, expected)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert 0 < backend.runs <= len(COMPILED[kind])


def test_it_stops_at_the_deepest_tap(tmp_path):
    path = save(lively(plain(segmentor(width=16))), tmp_path / 't.pth')
    backend = Backend()
    terms = dict(f=dict(type='FeatureKD', tap='backbone.layer2'))
    model = teach('seg', path, terms, compile=dict(backend=backend))
    backend.runs = 0
    model.loss(*batch_for(model))
    assert backend.runs == 2  # layer1, layer2


def test_copies_and_files_are_the_plain_student(tmp_path):
    path = save(lively(plain(segmentor(width=16))), tmp_path / 't.pth')
    model = teach('seg', path, compile=dict(backend='eager'))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.distillation.teachers is None
        assert not any('forward' in m.__dict__ for m in again.modules())
    plain(segmentor()).load_state_dict(model.state_dict(), strict=True)
    assert '; compile (largest difference ' in summarise(model)


def broken(graph, inputs):
    raise RuntimeError('no compiler here')


@pytest.mark.parametrize(
    'value, message',
    [
        ('inductor', "compile='inductor' must be True or a dict"),
        (dict(backand='inductor'), "torch.compile has no argument 'backand'; it has fullgraph"),
        (dict(mode='reduce-overhead'), "mode='reduce-overhead' runs CUDA graphs"),
        (dict(backend='cudagraphs'), "backend='cudagraphs' runs CUDA graphs"),
        (dict(backend='nonsense'), 'fails on this machine .*nonsense'),
        (dict(backend=broken), 'fails on this machine .*no compiler here'),
    ],
)
def test_mistakes_are_one_line(value, message):
    teacher = dict(config=segmentor(width=16), checkpoint=None, classes='same', compile=value)
    with pytest.raises(ValueError, match=f'^teacher.*{message}') as error:
        distil(segmentor(), teacher=teacher, terms=dict(kd=dict(type='LogitKD')))
    assert '\n' not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, dict(fold_bn=True)])
def test_inductors_kernels_agree_with_the_plain_teacher(kind, path, options):
    terms = dict(kd=dict(type='LogitKD'), f=dict(type='FeatureKD', tap='backbone[1:]'))
    reference = teach(kind, path, terms)
    compiled = teach(kind, path, terms, compile=True, **options)
    assert 0 < compiled.distillation.teachers[None].difference < 1e-5
    for height in (64, 96):
        batch = batch_for(reference, shapes=((height, 64),) * 2)
        expected, got = reference.loss(*batch), compiled.loss(*batch)
        for name in [name for name in expected if name.startswith(('kd.', 'f.'))]:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=0, msg=name)
