"""Detectors whose predictions no family knows: what their dry run is given."""

import pytest
from toys import detector, plain

from mmkd.distillers.model_source import resolve_model
from mmkd.families.detector import Detector


@pytest.mark.parametrize(
    ('config', 'masks'),
    [
        (detector(), True),
        # its assigner takes masks, where there are any, as tensors; that of RTMDet-Ins as they are
        ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', False),
        ('mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', True),
    ],
    ids=['retinanet', 'rtmdet', 'rtmdet-ins'],
)
def test_masks_among_the_labels_of_the_dry_run(config, masks):
    model = plain(resolve_model(config).model).train()
    inputs, samples = Detector(model).dummy_batch(model, 'cpu')
    assert [('masks' in sample.gt_instances) for sample in samples] == [masks, masks]
    losses = model.loss(inputs, samples)
    assert any('loss' in name for name in losses)
