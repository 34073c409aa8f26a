"""SGD for segmentors: 40k iterations of 16 images, rate 0.02 down to 0 (CIRKD, DIST, Af-DCD)."""
_base_ = 'mmseg::_base_/schedules/schedule_40k.py'

optim_wrapper = dict(optimizer=dict(lr=0.02, weight_decay=1e-4))
param_scheduler = [
    dict(type='PolyLR', eta_min=0., power=0.9, begin=0, end=40000, by_epoch=False)
]
