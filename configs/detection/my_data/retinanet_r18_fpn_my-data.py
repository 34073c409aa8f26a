"""The student, alone, on a folder of your own in COCO's format. What to edit is marked."""
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'

# Edit: where your data lie, and the names of your classes as the JSON files have them.
data_root = 'data/my_data/'
train_json, train_images = 'annotations/train.json', 'images/train/'
val_json, val_images = 'annotations/val.json', 'images/val/'
classes = ('person', 'car', 'dog')
# Edit: how long. A few thousand steps are the least; a step is `batch_size` images on each GPU.
max_epochs = 24
batch_size = 4

metainfo = dict(classes=classes)
model = dict(bbox_head=dict(num_classes=len(classes)))

train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        data_root=data_root, metainfo=metainfo,
        ann_file=train_json, data_prefix=dict(img=train_images)))
val_dataloader = dict(
    dataset=dict(
        data_root=data_root, metainfo=metainfo,
        ann_file=val_json, data_prefix=dict(img=val_images)))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val_json)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, gamma=0.1,
        milestones=[max_epochs * 2 // 3, max_epochs * 11 // 12])
]
