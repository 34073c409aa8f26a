"""The student, alone, on folders of images and PNG masks of your own. What to edit is marked.

A mask has the name of its image and holds each pixel's class number, from 0 in the order of
`classes`; 255 is where nothing is learnt.
"""
_base_ = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'

# Edit: where your data lie, and the names of your classes.
data_root = 'data/my_data/'
train_images, train_masks = 'images/train', 'masks/train'
val_images, val_masks = 'images/val', 'masks/val'
img_suffix = '.jpg'
classes = ('background', 'leaf', 'stem')
# Edit: width and height that images are brought to, the part of one that is trained on (height
# and width), how many parts a step takes on each GPU, and the number of steps.
scale = (1024, 512)
crop_size = (512, 512)
batch_size = 4
max_iters = 20000

model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=len(classes)),
    auxiliary_head=dict(num_classes=len(classes)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
dataset = dict(
    type='BaseSegDataset', data_root=data_root, metainfo=dict(classes=classes),
    img_suffix=img_suffix, seg_map_suffix='.png')
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        data_prefix=dict(img_path=train_images, seg_map_path=train_masks),
        pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path=val_images, seg_map_path=val_masks),
        pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=max_iters, by_epoch=False)
]
