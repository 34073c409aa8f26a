"""Vanilla logit KD + class-only exits on the backbone, taught the teacher's scores by cell."""
_base_ = './kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(exits=dict(backbone=dict(type='SemanticExit', tap='backbone')))
