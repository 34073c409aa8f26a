"""Foundation models as teachers: real code of ``transformers``, random weights, no network."""

import copy
import json
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from toys import CAFFE, batch_for, det_batch, detector, distil, images, seg_batch, segmentor, total

from mmkd.families.foundation_backbone import FoundationBackbone
from mmkd.registry import MODELS
from mmkd.terms.tap import Tap

transformers = pytest.importorskip('transformers', reason='the extra mmkd[foundation] is absent')

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
ONE = dict(type='FeatureKD', tap='backbone[3]', teacher_tap='backbone[0]')
KINDS = {
    # name: config, patch, stride, channels by stage
    'dinov2': (
        dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=28),
        'Dinov2Config', 14, 16, [8, 8],
    ),
    'dinov3': (
        dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2),
        'DINOv3ViTConfig', 16, 16, [8, 8],
    ),
    'swin': (
        dict(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4),
        'SwinConfig', 4, 4, [8, 16],
    ),
    'convnext': (
        dict(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1]),
        'ConvNextConfig', 4, 4, [8, 16],
    ),
}  # fmt: skip


def write(folder, kind: str = 'dinov2', processor: bool = True, **changes) -> str:
    """A folder as a download of the hub would be, with random weights."""
    settings, config, *_ = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, config)(**dict(settings, **changes))
    if type(config) not in transformers.MODEL_FOR_BACKBONE_MAPPING:
        pytest.skip(f'transformers {transformers.__version__} has no backbone of {kind}')
    transformers.AutoBackbone.from_config(config).save_pretrained(folder)
    if processor:
        pixels = dict(image_mean=MEAN, image_std=STD, do_normalize=True, do_rescale=True)
        text = dict(pixels, rescale_factor=1 / 255, image_processor_type='BitImageProcessor')
        (folder / 'preprocessor_config.json').write_text(json.dumps(text))
    return str(folder)


def dino(folder, **changes) -> dict:
    return dict(config=dict(type='mmkd.FoundationBackbone', name_or_path=write(folder), **changes))


def build(name_or_path: str, **changes) -> FoundationBackbone:
    cfg = dict(type='FoundationBackbone', name_or_path=name_or_path, **changes)
    return MODELS.build(cfg).eval()


@pytest.mark.parametrize('kind', KINDS)
def test_stages_are_maps_whose_cells_cover_whole_pixels(kind, tmp_path):
    _, _, patch, stride, channels = KINDS[kind]
    both = ['stage1', 'stage2']
    model = build(write(tmp_path, kind), out_features=both)
    assert (model.backbone.patch, model.backbone.stride) == (patch, stride)
    with torch.no_grad():
        maps = model.extract_feat(torch.randn(2, 3, 64, 96))
    coarser = [1, 2] if kind in ('swin', 'convnext') else [1, 1]
    sizes = [(2, c, 64 // (stride * k), 96 // (stride * k)) for c, k in zip(channels, coarser)]
    assert [tuple(x.shape) for x in maps] == sizes
    assert len(build(write(tmp_path, kind)).extract_feat(torch.randn(1, 3, 64, 64))) == 1
    by_index = build(write(tmp_path, kind), out_indices=[1]).extract_feat(torch.randn(1, 3, 64, 64))
    assert [x.shape[1] for x in by_index] == channels[:1]


def test_it_says_what_transformers_says(tmp_path):
    """Its patches lie where the pixels' cells lie: an image of its own size is not resized."""
    model = build(write(tmp_path), out_features=['stage1', 'stage2'], stride=14)
    stages = dict(out_features=['stage1', 'stage2'])
    plain = transformers.Dinov2Backbone.from_pretrained(tmp_path, **stages).eval()
    image = torch.randn(2, 3, 56, 28)
    with torch.no_grad():
        for ours, theirs in zip(model.extract_feat(image), plain(image).feature_maps, strict=True):
            assert torch.equal(ours, theirs)
        wide = F.interpolate(image, (28, 14), mode='bicubic', antialias=True)
        half = build(str(tmp_path), stride=28).extract_feat(image)[0]
        assert torch.equal(half, plain(wide).feature_maps[-1])


def test_odd_sizes_get_a_cell_for_what_is_left_over(tmp_path):
    maps = build(write(tmp_path)).extract_feat(torch.randn(1, 3, 50, 33))
    assert maps[0].shape[-2:] == (4, 3)


@pytest.mark.parametrize('pixels', [CAFFE, None], ids=['blue first', 'red first'])
def test_images_arrive_in_its_own_normalisation(pixels, tmp_path):
    student = segmentor() if pixels is None else segmentor(pixels=pixels)
    model = distil(student, teacher=dino(tmp_path), terms=dict(f=ONE))
    teacher = model.distillation.teachers[None]
    seen = []
    teacher.model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    inputs, samples = seg_batch(model, shapes=((64, 48), (40, 64)))
    teacher.run(inputs, samples, {Tap.parse('backbone[0]')}, False)
    raw = images(((64, 48), (40, 64)))
    for index, picture in enumerate(raw):
        height, width = picture.shape[-2:]
        red_first = picture.flip(0).double() / 255
        expected = (red_first - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        got = seen[0][index, :, :height, :width].double()
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    assert seen[0][0, :, :, 48:].abs().max() == 0


@pytest.mark.parametrize('student', [detector(), segmentor()], ids=['detector', 'segmentor'])
def test_it_teaches_and_is_only_read(student, tmp_path):
    model = distil(student, teacher=dino(tmp_path), terms=dict(f=ONE))
    teacher = model.distillation.teachers[None].model
    assert not any('teacher' in n or 'body' in n for n in model.state_dict())
    before = copy.deepcopy(teacher.state_dict())
    own = {id(p) for p in teacher.parameters()}
    assert not own & {id(p) for p in model.parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = model.loss(*batch_for(model))
    losses['f.loss'].backward()
    optimizer.step()
    assert losses['f.loss'] > 0
    assert model.backbone.conv1.weight.grad.norm() > 0
    assert all(torch.equal(x, before[n]) for n, x in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    assert copy.deepcopy(model).distillation.teachers is None
    assert pickle.loads(pickle.dumps(model)).distillation.teachers is None
    model.double()
    assert next(teacher.parameters()).dtype == torch.float64


def test_it_goes_with_another_teacher_and_is_run_in_bfloat16(tmp_path):
    teachers = dict(
        big=dict(config=detector(width=16), checkpoint=None, classes='same'),
        dino=dict(dino(tmp_path), autocast='bfloat16', channels_last=True),
    )
    terms = dict(kd=dict(type='LogitKD', teacher='big'), f=dict(ONE, teacher='dino'))
    model = distil(detector(), teacher=teachers, terms=terms)
    losses = model.loss(*det_batch(model))
    assert losses['kd.loss_cls'] > 0 and losses['f.loss'] > 0
    assert torch.isfinite(total(losses))
    assert model.distillation.teachers['dino'].title == 'dino'


def test_the_summary_names_where_it_comes_from(tmp_path):
    model = distil(segmentor(), teacher=dino(tmp_path), terms=dict(f=ONE))
    assert model.distillation.teachers[None].title == str(tmp_path)


def test_own_mean_and_std_replace_a_missing_processor(tmp_path):
    name = write(tmp_path, processor=False)
    with pytest.raises(ValueError, match=r'tells no normalisation .*give mean=\[') as error:
        build(name)
    assert '\n' not in str(error.value)
    model = build(name, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match='both mean and std'):
        build(name, mean=[1.0, 2.0, 3.0])


def test_a_file_that_leaves_weights_unfilled_is_refused(tmp_path):
    name = write(tmp_path)
    weights = load_file(tmp_path / 'model.safetensors')
    lost = next(n for n in weights if n.endswith('mlp.fc1.weight'))
    del weights[lost]
    save_file(weights, tmp_path / 'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='leaves 1 weights unfilled') as error:
        build(name)
    assert '\n' not in str(error.value) and lost in str(error.value)


def test_a_norm_that_only_the_backbone_has_stays_plain(tmp_path):
    """A classifier's file lacks the norms that transformers puts on the stages of a backbone."""
    settings, config, *_ = KINDS['swin']
    classifier = transformers.SwinForImageClassification(getattr(transformers, config)(**settings))
    classifier.save_pretrained(tmp_path)
    model = build(str(tmp_path), mean=[0.0] * 3, std=[1.0] * 3)
    norms = model.backbone.body.hidden_states_norms
    assert all(bool((n.weight == 1).all() and (n.bias == 0).all()) for n in norms.values())
    ours, theirs = (
        {n.removeprefix('swin.'): p for n, p in m.named_parameters()}
        for m in (model.backbone.body, classifier)
    )
    same = [n for n in ours if n in theirs and torch.equal(ours[n], theirs[n])]
    assert len(same) > 20


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (dict(checkpoint='some.pth'), r"its weights come with it; drop checkpoint='some.pth'"),
        (dict(clases=()), "unknown key 'clases'"),
    ],
)
def test_keys_that_it_does_not_take(keys, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        distil(segmentor(), teacher=dict(dino(tmp_path), **keys), terms=dict(f=ONE))
    assert '\n' not in str(error.value)


def test_a_name_that_cannot_be_had_is_one_line(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match='some-body/no-such-model') as error:
        build('some-body/no-such-model')
    assert '\n' not in str(error.value)


def test_it_has_no_final_predictions(tmp_path):
    with pytest.raises(ValueError, match=r'bare backbone without final predictions.*FeatureKD'):
        distil(segmentor(), teacher=dino(tmp_path), terms=dict(kd=dict(type='LogitKD')))
    with pytest.raises(ValueError, match='nothing that could be judged'):
        distil(segmentor(), teacher=dino(tmp_path), terms=dict(f=ONE)).judge_teacher(('a', 'b'))


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    with pytest.raises(ValueError, match=r"pip install 'mmkd\[foundation\]'"):
        build('anything')
