"""DIST on each level's raw class maps, anchors and classes as channels; boxes are not taught."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        kd=None,
        dist=dict(
            type='FeatureKD',
            tap='bbox_head.retina_cls',
            adapter=None,
            loss=dict(type='DISTLoss', activation='sigmoid'))))
