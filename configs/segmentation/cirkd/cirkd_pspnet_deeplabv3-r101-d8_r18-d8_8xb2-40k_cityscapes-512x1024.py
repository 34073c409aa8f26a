"""PSPNet-R18 taught by DeepLabV3-R101: CIRKD with its schedule, weights and queues.

CIRKD's figures: student 72.55, teacher 78.07, distilled 74.73 mIoU; this teacher of mmseg has
80.20. The queues take 0.9 GB of the device and of each checkpoint.
"""
_base_ = '../cityscapes/kd_pspnet_deeplabv3-r101-d8_r18-d8_8xb2-40k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        batch=dict(
            type='FeatureKD', tap='decode_head.bottleneck', loss=dict(type='CrossImagePixelLoss')),
        memory=dict(
            type='FeatureKD', tap='decode_head.bottleneck', weight=0.1,
            loss=dict(type='CrossImageMemoryLoss'))))
