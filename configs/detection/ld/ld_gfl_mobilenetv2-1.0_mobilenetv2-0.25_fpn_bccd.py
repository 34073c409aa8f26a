"""LD on BCCD: localisation distillation alone, on the bins of the boxes."""
_base_ = '../bccd/kd_gfl_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        kd=dict(
            loss_cls=None,
            loss_bbox=None,
            loss_dfl=dict(type='LDLoss', tau=10.0, loss_weight=1.0))))
