"""RetinaNet-R50 taught by X101, FGD. Published: student 37.4, teacher 41.0, distilled 40.7 AP."""
_base_ = '../coco/kd_retinanet_x101-64x4d_r50_fpn_2x_coco.py'

model = dict(
    inherit=['neck', 'bbox_head'],
    terms=dict(
        _delete_=True,
        fgd=dict(type='FeatureKD', tap='neck', loss=dict(type='FGDLoss'))))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
