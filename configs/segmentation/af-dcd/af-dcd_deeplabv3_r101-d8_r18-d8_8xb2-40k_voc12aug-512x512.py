"""DeepLabV3-R18 taught by R101 on Pascal VOC: Af-DCD with its schedule and weights.

Af-DCD's figures: student 73.21, teacher 77.67, distilled 76.25 mIoU; this teacher of mmseg has
77.92.
"""
_base_ = '../voc12aug/kd_deeplabv3_r101-d8_r18-d8_8xb2-40k_voc12aug-512x512.py'

model = dict(
    terms=dict(
        dcd=dict(
            type='FeatureKD', tap='backbone[3]',
            loss=dict(type='AfDCDLoss', feature_weight=1e-6))))
