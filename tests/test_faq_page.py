"""What docs/faq.md answers and no other test holds."""

from unittest import mock

import pytest
from mmengine.registry import init_default_scope

from mmkd.distillers.model_source import resolve_model
from mmkd.families.family import Family
from mmkd.registry import MODELS


@pytest.mark.parametrize(
    ('config', 'reason'),
    [
        ('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', 'YOLOF has no final predictions'),
        (
            'mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py',
            'PointHead does not predict one map',
        ),
    ],
)
def test_features_without_known_predictions(config, reason):
    init_default_scope(config.split(':')[0])

    def build(**term):
        student = resolve_model(config).model
        teacher = dict(config=config, checkpoint=None)
        cfg = dict(type='mmkd.Distiller', student=student, teacher=teacher, terms=dict(t=term))
        with mock.patch.object(Family, 'dry_run_side', 128):
            return MODELS.build(cfg)

    (part,) = build(type='FeatureKD', tap='backbone').distillation.parts
    assert part.shapes
    with pytest.raises(ValueError, match=rf'{reason}.*FeatureKD'):
        build(type='LogitKD')
