"""DeepLabV3-R18 taught by R101: DIST, correlation across classes and across pixels.

DIST's own figures, 40k iterations of 16: student 74.21, teacher 78.07, distilled 77.10 mIoU.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(terms=dict(kd=dict(loss_seg=dict(type='DISTLoss'))))
