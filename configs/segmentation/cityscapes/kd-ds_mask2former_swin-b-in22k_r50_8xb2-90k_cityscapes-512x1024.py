"""Mask2Former-R50 taught by Swin-B, the flagship: semantic collapse + exits on stages 2 to 4.

Published: student 80.44, teacher 83.52 mIoU. Exits predict pixel by pixel, as FCN does.
"""
_base_ = './kd_mask2former_swin-b-in22k_r50_8xb2-90k_cityscapes-512x1024.py'

model = dict(
    exits=dict(
        backbone=dict(
            type='SegExit', tap='backbone[1:]', weight=[0.1, 0.1, 0.2], feat=8.0)))
