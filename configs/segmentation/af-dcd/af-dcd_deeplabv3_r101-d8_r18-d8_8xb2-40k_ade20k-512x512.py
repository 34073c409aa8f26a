"""DeepLabV3-R18 taught by R101 on ADE20K: Af-DCD with its schedule and weights.

Af-DCD's figures: student 33.91, teacher 42.70, distilled 36.21 mIoU; this teacher of mmseg has
44.08.
"""
_base_ = '../ade20k/kd_deeplabv3_r101-d8_r18-d8_8xb2-40k_ade20k-512x512.py'

model = dict(
    terms=dict(
        kd=dict(weight=0.5),
        dcd=dict(
            type='FeatureKD', tap='backbone[3]',
            loss=dict(type='AfDCDLoss', feature_weight=1e-6, contrast_weight=0.04))))
