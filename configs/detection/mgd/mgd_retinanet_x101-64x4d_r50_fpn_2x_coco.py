"""RetinaNet-R50 taught by X101, MGD. Published: student 37.4, teacher 41.0, distilled 41.0 AP."""
_base_ = '../coco/kd_retinanet_x101-64x4d_r50_fpn_2x_coco.py'

model = dict(
    inherit=['neck', 'bbox_head'],
    terms=dict(
        _delete_=True,
        mgd=dict(type='FeatureKD', tap='neck', loss=dict(type='MGDLoss'))))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
