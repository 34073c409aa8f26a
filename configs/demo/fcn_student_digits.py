"""FCN on all stages of a very small ResNet-18: the demo's student for segmentation, alone."""

_base_ = [
    '../_base_/models/fcn_r18-w16.py',
    '../_base_/datasets/digits_segmentation.py',
    '../_base_/schedules/demo.py']

default_scope = 'mmseg'
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
