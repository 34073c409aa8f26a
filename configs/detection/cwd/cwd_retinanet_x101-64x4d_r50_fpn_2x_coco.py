"""RetinaNet-R50 taught by X101: CWD at P3 to P6. Published: student 37.4, distilled 40.5 box AP."""
_base_ = '../coco/kd_retinanet_x101-64x4d_r50_fpn_2x_coco.py'

model = dict(
    terms=dict(
        _delete_=True,
        cwd=dict(
            type='FeatureKD',
            tap='neck[0:4]',
            loss=dict(type='ChannelWiseDivergence'),
            weight=5.0)))
