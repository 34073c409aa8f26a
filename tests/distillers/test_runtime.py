"""A teacher that runs cheaper says the same."""

import platform
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import batch_for, detector, distil, lively, plain, save, segmentor

from mmkd.distillers.runtime import Runtime

OPTIONS = [
    (dict(fold_bn=True), 1e-5),
    (dict(channels_last=True), 1e-5),
    (dict(autocast='bfloat16'), 0.05),
    (dict(fold_bn=True, channels_last=True, autocast='bfloat16'), 0.05),
]
TERMS = dict(kd=dict(type='LogitKD'), f=dict(type='FeatureKD', tap='backbone[1:]'))


def teach(make, path, **options):
    teacher = dict(config=make(width=16), checkpoint=path, classes='same', **options)
    return distil(make(), teacher=teacher, terms=TERMS)


@pytest.mark.parametrize('make', [detector, segmentor])
@pytest.mark.parametrize('options, tolerance', OPTIONS)
def test_its_losses_are_the_plain_teachers(make, options, tolerance, tmp_path):
    path = save(lively(plain(make(width=16))), tmp_path / 't.pth')
    reference, cheap = teach(make, path), teach(make, path, **options)
    batch = batch_for(reference)
    expected, got = reference.loss(*batch), cheap.loss(*batch)
    for name in [name for name in expected if name.startswith(('kd.', 'f.'))]:
        assert expected[name] > 0.01
        torch.testing.assert_close(got[name], expected[name], rtol=tolerance, atol=0, msg=name)
    measured = cheap.distillation.teachers[None].difference
    assert 0 <= measured < tolerance


def test_options_act_and_are_named_in_the_summary(tmp_path):
    from mmkd.distillers.summary import summarise

    path = save(lively(plain(segmentor(width=16))), tmp_path / 't.pth')
    model = teach(segmentor, path, fold_bn=True, channels_last=True, autocast='bfloat16')
    teacher = model.distillation.teachers[None]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    heard = teacher.run(*batch_for(model), set(), True)
    (logits,) = heard.predictions.outputs['seg']
    assert logits.dtype == torch.bfloat16
    assert logits.is_contiguous(memory_format=torch.channels_last)
    assert 'fold_bn, channels_last, bfloat16 (largest difference ' in summarise(model)


def test_a_dtype_that_the_processor_only_emulates_is_said(tmp_path):
    from mmkd.distillers.summary import summarise

    path = save(lively(plain(segmentor(width=16))), tmp_path / 't.pth')
    cpu = Path('/proc/cpuinfo')
    flags = set(cpu.read_text().split()) if cpu.is_file() else set()
    if platform.machine() == 'x86_64':
        emulated = not {'avx512bw', 'avx512vl', 'avx512dq'} <= flags
        summary = summarise(teach(segmentor, path, autocast='bfloat16'))
        assert ('only emulates bfloat16' in summary) == emulated
    assert 'emulates' not in summarise(teach(segmentor, path))
    runtime = Runtime(autocast='bfloat16')
    assert not runtime.is_emulated(torch.device('cuda'))


def test_a_tap_between_a_convolution_and_its_norm_is_refused(tmp_path):
    path = save(lively(plain(segmentor(width=16))), tmp_path / 't.pth')
    teacher = dict(config=segmentor(width=16), checkpoint=path, classes='same', fold_bn=True)
    inside = dict(f=dict(type='FeatureKD', tap='backbone.layer1.0.conv1'))
    with pytest.raises(ValueError, match='fold_bn changes what it says by') as error:
        distil(segmentor(), teacher=teacher, terms=inside)
    assert '\n' not in str(error.value)
    distil(segmentor(), teacher=dict(teacher, fold_bn=False), terms=inside)


def test_a_dtype_that_is_none_is_one_line():
    teacher = dict(config=segmentor(), checkpoint=None, autocast='int8')
    with pytest.raises(ValueError, match="autocast='int8' must be 'bfloat16', 'float16' or None"):
        distil(segmentor(), teacher=teacher, terms=TERMS)
