"""16,000 scenes of DigitScenes, to be cut down: tools/dataset_converters/digit_scenes.py data/digits16k
--train 16000 --val 500.
"""

_base_ = './digits_segmentation.py'

data_root = 'data/digits16k/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(batch_size=50, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
