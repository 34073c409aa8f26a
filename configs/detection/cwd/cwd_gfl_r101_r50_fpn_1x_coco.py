"""GFL-R50 taught by R101: CWD at the neck. MMRazor: student 40.2, distilled 41.9 box AP."""
_base_ = '../coco/kd_gfl_r101_r50_fpn_1x_coco.py'

model = dict(
    terms=dict(
        _delete_=True,
        cwd=dict(
            type='FeatureKD', tap='neck', loss=dict(type='ChannelWiseDivergence'), weight=10.0)))
