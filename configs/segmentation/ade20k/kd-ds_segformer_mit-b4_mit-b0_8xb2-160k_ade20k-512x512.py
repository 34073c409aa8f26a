"""SegFormer-B0 taught by B4, the flagship: logit KD + exits on stages 2 to 4."""
_base_ = './kd_segformer_mit-b4_mit-b0_8xb2-160k_ade20k-512x512.py'

model = dict(
    exits=dict(
        backbone=dict(type='SegExit', tap='backbone[1:]', weight=[0.1, 0.2, 0.4], feat=8.0)))

# The baseline's decode head learns ten times faster than its backbone; so do the exits.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(distillation=dict(lr_mult=10.))))
