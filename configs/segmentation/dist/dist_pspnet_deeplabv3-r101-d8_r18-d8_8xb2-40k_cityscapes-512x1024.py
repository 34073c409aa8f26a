"""PSPNet-R18 taught by DeepLabV3-R101: DIST with its schedule.

DIST's figures: student 72.55, teacher 78.07, distilled 76.31 mIoU; this teacher of mmseg has
80.20.
"""
_base_ = '../cityscapes/kd_pspnet_deeplabv3-r101-d8_r18-d8_8xb2-40k_cityscapes-512x1024.py'

model = dict(terms=dict(kd=dict(loss_seg=dict(type='DISTLoss'))))
