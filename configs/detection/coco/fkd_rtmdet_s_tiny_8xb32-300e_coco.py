"""RTMDet-tiny taught by RTMDet-s: features of backbone and neck.

No exit knows this head; terms at the depths where the other detectors have exits take their place.
"""
_base_ = './kd_rtmdet_s_tiny_8xb32-300e_coco.py'

schedule = dict(warmup=100, end=280 * 459)
model = dict(
    terms=dict(
        backbone=dict(type='FeatureKD', tap='backbone', weight=2.0, schedule=schedule),
        neck=dict(
            type='FeatureKD',
            tap=['neck.top_down_blocks.0', 'neck.top_down_blocks.1'],
            weight=2.0,
            schedule=schedule)))
