"""CWD on the neck's outputs, weight 5 and temperature 1 as published for RetinaNet."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        _delete_=True,
        cwd=dict(
            type='FeatureKD', tap='neck', loss=dict(type='ChannelWiseDivergence'), weight=5.0)))
