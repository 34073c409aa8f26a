"""GFL-R50 taught by R101: CrossKD and PKD of the neck. Published: 40.2, distilled 43.9 box AP."""
_base_ = './crosskd_gfl_r101_r50_fpn_1x_coco.py'

model = dict(
    terms=dict(pkd=dict(type='FeatureKD', tap='neck', loss=dict(type='PKDLoss'), weight=6.0)))
