"""Faster R-CNN-R50 taught by a Cascade Mask R-CNN on X101 with deformable convs: MGD at P2 to P5.

Published: student 38.4, distilled 42.1 box AP; mmdet lists 47.3 for the teacher.
"""
_base_ = '../coco/kd_faster-rcnn_r101_r50_fpn_2x_coco.py'

model = dict(
    teacher=dict(config='mmdet::dcn/cascade-mask-rcnn_x101-32x4d-dconv-c3-c5_fpn_1x_coco.py'),
    terms=dict(
        _delete_=True,
        mgd=dict(
            type='FeatureKD',
            tap='neck[0:4]',
            loss=dict(type='MGDLoss', alpha=5e-7, mask_ratio=0.45))))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
