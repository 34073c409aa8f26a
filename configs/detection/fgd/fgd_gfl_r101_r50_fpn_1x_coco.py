"""GFL-R50 taught by R101, FGD. Published: student 40.2, distilled 43.5 box AP."""
_base_ = '../coco/kd_gfl_r101_r50_fpn_1x_coco.py'

model = dict(
    inherit=['neck', 'bbox_head'],
    terms=dict(
        _delete_=True,
        fgd=dict(type='FeatureKD', tap='neck', loss=dict(type='FGDLoss'))))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
