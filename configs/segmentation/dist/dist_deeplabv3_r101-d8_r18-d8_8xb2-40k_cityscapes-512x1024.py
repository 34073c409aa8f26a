"""DeepLabV3-R18 taught by R101: DIST with its schedule.

DIST's figures: student 74.21, teacher 78.07, distilled 77.10 mIoU; this teacher of mmseg has
80.20.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_r18-d8_8xb2-40k_cityscapes-512x1024.py'

model = dict(terms=dict(kd=dict(loss_seg=dict(type='DISTLoss'))))
