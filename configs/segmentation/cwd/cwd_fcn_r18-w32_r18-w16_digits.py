"""CWD on the logits' channels, as published: weight 3, temperature 4, beside pixel-wise KL."""
_base_ = '../digits/kd_fcn_r18-w32_r18-w16_digits.py'

model = dict(
    terms=dict(
        cwd=dict(
            type='LogitKD', loss_seg=dict(type='ChannelWiseDivergence', tau=4.0), weight=3.0)))
