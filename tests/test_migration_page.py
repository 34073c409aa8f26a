"""docs/migrating_from_mmrazor.md: its config teaches as it says, its snippet finds the student."""

import re
from pathlib import Path
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from toys import (
    distil,
    norms_in_eval,
    plain,
    random_teacher,
    seg_batch,
    segmentor,
)

from mmkd.families.family import Family
from mmkd.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs/migrating_from_mmrazor.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.S)


def the_config(tmp_path) -> Config:
    (block,) = [b for b in BLOCKS if 'mmkd.Distiller' in b]
    path = tmp_path / 'ours.py'
    path.write_text(block)
    return Config.fromfile(path)


def test_our_config_finds_what_mmrazors_had_to_be_told(tmp_path):
    (theirs,) = [b for b in BLOCKS if b.startswith('# mmrazor')]
    compile(theirs, 'theirs', 'exec')
    cfg = the_config(tmp_path)
    assert cfg.model.teacher.checkpoint == 'published'
    cfg.model.teacher.checkpoint = None  # the published file is a download
    cfg.model.student.pretrained = None
    cfg.model.student.data_preprocessor.size = (128, 128)
    init_default_scope('mmseg')
    with mock.patch.object(Family, 'dry_run_side', 128):
        model = MODELS.build(cfg.model)
    assert [part.name for part in model.distillation.parts] == ['logits', 'stage4']
    (adapter,) = model.distillation.parts[1].adapters
    assert (adapter.conv.in_channels, adapter.conv.out_channels) == (512, 2048)
    assert 'in_channel=512, out_channel=2048' in theirs


def divergence(student, teacher):
    """CWD without a mask, tau 1: KL of each channel's softmax over cells, over N * C."""
    student, teacher = (x.flatten(2).log_softmax(2) for x in (student, teacher))
    return (teacher.exp() * (teacher - student)).sum() / (teacher.shape[0] * teacher.shape[1])


def test_its_terms_have_mmrazors_values(tmp_path):
    terms = the_config(tmp_path).model.terms.to_dict()
    tapped = dict(terms['stage4'], tap='decode_head.conv_seg', weight=5.0)
    model = norms_in_eval(
        distil(
            segmentor('psp'), teacher=random_teacher(segmentor('psp', width=16)),
            terms=dict(terms, tapped=tapped),
        )
    )  # fmt: skip
    seen = {}

    def record(module, name):
        return module.register_forward_hook(lambda m, i, output: seen.update({name: output}))

    teacher = model.distillation.teachers[None].model
    for who, source in (('s', model), ('t', teacher)):
        record(source.decode_head.conv_seg, f'{who}.logits')
        record(source.backbone.layer4, f'{who}.stage4')
    inputs, samples = seg_batch(model)
    losses = model.loss(inputs, samples)
    logits = 5 * divergence(seen['s.logits'], seen['t.logits'])
    torch.testing.assert_close(losses['logits.loss_seg'], logits)
    torch.testing.assert_close(losses['tapped.loss'], logits)
    widened = model.distillation.parts[1].adapters[0].conv(seen['s.stage4'])
    stage4 = 3 * divergence(widened, seen['t.stage4'])
    torch.testing.assert_close(losses['stage4.loss'], stage4)


def test_the_snippet_takes_the_student_out(tmp_path, monkeypatch):
    (snippet,) = [b for b in BLOCKS if 'read_checkpoint' in b]
    student, teacher = plain(segmentor(), 1), plain(segmentor(width=16), 2)
    state = {f'architecture.{k}': v for k, v in student.state_dict().items()}
    state.update({f'teacher.{k}': v for k, v in teacher.state_dict().items()})
    state['distiller.connectors.widen.conv.weight'] = torch.ones(4, 2, 1, 1)
    classes = ('cat', 'dog', 'bird', 'cow')
    file = dict(meta=dict(dataset_meta=dict(classes=classes)), state_dict=state)
    torch.save(file, tmp_path / 'mmrazor.pth')
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    taken = torch.load(tmp_path / 'student.pth', weights_only=True)
    assert tuple(taken['meta']['dataset_meta']['classes']) == classes
    stock = plain(segmentor(), 3)
    stock.load_state_dict(taken['state_dict'], strict=True)
    for name, value in student.state_dict().items():
        assert torch.equal(stock.state_dict()[name], value)

    start = distil(segmentor(), student_checkpoint=str(tmp_path / 'student.pth'))
    assert torch.equal(start.backbone.conv1.weight, student.backbone.conv1.weight)
