"""CWD on the logits' channels, as published: weight 3, temperature 4, beside pixel-wise KL."""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(
        cwd=dict(
            type='LogitKD', loss_seg=dict(type='ChannelWiseDivergence', tau=4.0), weight=3.0)))
