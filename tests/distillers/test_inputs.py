"""The teacher sees what its own preprocessor would have shown it."""

import copy

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import nn

from mmkd.distillers.inputs import InputConverter

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
GREY = dict(mean=[127.5], std=[127.5])
RAW = dict()
SHAPES = [(37, 50), (64, 41), (60, 64)]


def det_batch():
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in SHAPES]
    samples = [DetDataSample(metainfo=dict(img_shape=shape)) for shape in SHAPES]
    return dict(inputs=images, data_samples=samples)


def seg_batch():
    batch = det_batch()
    batch['data_samples'] = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, h, w, dtype=torch.long)))
        for h, w in SHAPES
    ]
    return batch


def det(**kwargs):
    return DetDataPreprocessor(pad_size_divisor=32, **kwargs)


def seg(pad_val=0, **kwargs):
    return SegDataPreProcessor(size=(72, 80), pad_val=pad_val, **kwargs)


def shown(preprocessor, batch):
    out = preprocessor(copy.deepcopy(batch), training=True)
    return out['inputs'], out['data_samples']


@pytest.mark.parametrize(
    'student, teacher',
    [
        (IMAGENET, CAFFE),
        (CAFFE, IMAGENET),
        (IMAGENET, GREY),
        (GREY, IMAGENET),
        (RAW, IMAGENET),
        (IMAGENET, RAW),
        (IMAGENET, dict(IMAGENET, bgr_to_rgb=False)),
        (dict(RAW, pad_value=114), IMAGENET),
        (IMAGENET, dict(CAFFE, pad_value=-3.5)),
        (IMAGENET, dict(IMAGENET, pad_value=2)),
        (dict(IMAGENET, bgr_to_rgb=False, rgb_to_bgr=True), CAFFE),
    ],
)
@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_equals_the_teachers_own_preprocessor(kind, student, teacher):
    if kind == 'det':
        make, batch = det, det_batch()
    else:
        make, batch = seg, seg_batch()
        rename = {'pad_value': 'pad_val'}
        student, teacher = (
            {rename.get(key, key): value for key, value in cfg.items()}
            for cfg in (student, teacher)
        )
    student, teacher = make(**student), make(**teacher)
    inputs, samples = shown(student, batch)
    expected, _ = shown(teacher, batch)
    before = inputs.clone()
    converted = InputConverter(student, teacher, 'big')(inputs, samples)
    torch.testing.assert_close(converted, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(inputs, expected, atol=1e-3)
    assert torch.equal(inputs, before)


def test_detector_taught_by_the_other_librarys_preprocessor():
    student, teacher = det(**IMAGENET), seg(**CAFFE)
    inputs, samples = shown(student, det_batch())
    own = SegDataPreProcessor(size=inputs.shape[-2:], **CAFFE)
    expected, _ = shown(own, seg_batch())
    converted = InputConverter(student, teacher, 'big')(inputs, samples)
    torch.testing.assert_close(converted, expected, rtol=1e-5, atol=1e-5)


def test_nothing_to_convert_returns_the_very_tensor():
    student = det(**IMAGENET)
    teacher = seg(mean=IMAGENET['mean'], std=IMAGENET['std'], rgb_to_bgr=True)
    inputs, samples = shown(student, det_batch())
    assert InputConverter(student, teacher, 'big')(inputs, samples) is inputs
    plain = BaseDataPreprocessor()
    assert InputConverter(plain, BaseDataPreprocessor(), 'big')(inputs, None) is inputs


def test_predicting_without_padding_or_samples():
    student, teacher = det(**IMAGENET), det(**CAFFE)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    inputs = student(dict(inputs=[image]))['inputs']
    expected = teacher(dict(inputs=[image]))['inputs']
    converted = InputConverter(student, teacher, 'big')(inputs, None)
    torch.testing.assert_close(converted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_dtype_stays(dtype):
    student, teacher = det(**IMAGENET), det(**CAFFE)
    inputs, samples = shown(student, det_batch())
    converter = InputConverter(student, teacher, 'big')
    converted = converter(inputs.to(dtype), samples)
    assert converted.dtype == dtype
    expected = converter(inputs.to(dtype).float(), samples).to(dtype)
    assert torch.equal(converted, expected)


class Scaler(nn.Module):
    pass


def four_channels():
    preprocessor = ImgDataPreprocessor(**IMAGENET)
    preprocessor.mean, preprocessor.std = torch.zeros(4, 1, 1), torch.ones(4, 1, 1)
    preprocessor._channel_conversion = True
    return preprocessor


@pytest.mark.parametrize(
    'student, teacher, says',
    [
        (det(**IMAGENET), Scaler(), r'DetDataPreprocessor.*Scaler.*no mean, std'),
        (Scaler(), det(**IMAGENET), r'Scaler.*DetDataPreprocessor.*student.*no mean, std'),
        (det(**IMAGENET), None, r'NoneType.*data_preprocessor'),
        (det(**IMAGENET), four_channels(), r'3 channels against 4'),
    ],
)
def test_what_cannot_be_converted(student, teacher, says):
    with pytest.raises(ValueError, match=says) as caught:
        InputConverter(student, teacher, 'big')
    assert '\n' not in str(caught.value) and "'big'" in str(caught.value)


def test_images_of_other_channels_are_refused():
    converter = InputConverter(det(**IMAGENET), det(**CAFFE), 'big')
    with pytest.raises(ValueError, match=r'\(1, 1, 8, 8\).*3 channels'):
        converter(torch.zeros(1, 1, 8, 8), None)
