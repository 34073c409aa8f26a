"""PSPNet-R18 taught by R101: CWD on the logits, each class a distribution over the pixels.

The authors' weight and temperature. Published: student 74.87, teacher 79.76 mIoU.
"""
_base_ = '../cityscapes/kd_pspnet_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    terms=dict(kd=dict(weight=3., loss_seg=dict(type='ChannelWiseDivergence', tau=4.))))
