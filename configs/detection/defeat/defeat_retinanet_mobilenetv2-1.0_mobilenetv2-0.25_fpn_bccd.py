"""DeFeat on the neck's outputs: objects and background apart, at the weights published for VOC."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        _delete_=True,
        # 1.75 sides of the finest anchor, as 56 pixels are of Faster R-CNN's
        defeat=dict(
            type='FeatureKD', tap='neck', loss=dict(type='DeFeatLoss', finest_scale=21.))))
