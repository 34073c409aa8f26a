"""Vanilla logit KD + the backbone's stages through the last conv of the teacher's frozen towers."""
_base_ = './kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(exits=dict(backbone=dict(type='CrossExit', tap='backbone', start=1)))
