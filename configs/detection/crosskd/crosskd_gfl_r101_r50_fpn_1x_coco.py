"""GFL-R50 taught by R101: CrossKD. Published: student 40.2, teacher 44.9, distilled 43.7 box AP."""
_base_ = '../coco/kd_gfl_r101_r50_fpn_1x_coco.py'

model = dict(terms=dict(kd=None, cross=dict(type='CrossKD')))
