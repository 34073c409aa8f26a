"""RTMDet-tiny taught by RTMDet-s, the flagship: logit KD + exits on backbone and neck."""
_base_ = './kd_rtmdet_s_tiny_8xb32-300e_coco.py'

# exits end with the mosaics, at epoch 280; 459 iterations each on 8 GPUs
schedule = dict(end=280 * 459)
model = dict(
    exits=dict(
        backbone=dict(type='DenseExit', tap='backbone', feat=8.0, schedule=schedule),
        neck=dict(
            type='DenseExit',
            tap=['neck.top_down_blocks.1', 'neck.top_down_blocks.0'],
            feat=8.0,
            schedule=schedule)))
