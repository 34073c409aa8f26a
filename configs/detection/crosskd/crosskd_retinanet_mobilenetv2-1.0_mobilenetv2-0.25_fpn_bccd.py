"""CrossKD: the student's head after its first conv through the second one of the teacher's."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(terms=dict(kd=None, cross=dict(type='CrossKD', start=1)))
