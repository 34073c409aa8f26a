"""RTMDet-tiny, the control: the same exits, taught by the labels alone; no teacher."""
_base_ = './kd-ds_rtmdet_s_tiny_8xb32-300e_coco.py'

model = dict(
    teacher=None,
    terms=None,
    exits=dict(
        backbone=dict(gt=1, kd=0, feat=0),
        neck=dict(gt=1, kd=0, feat=0)))
