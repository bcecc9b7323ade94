# Thermal images of dogs and people: 2 categories, 142 / 41 / 20 images.
_base_ = './small_coco.py'

data_root = '{{$DINOR1_DATA:data}}/thermal_dogs_and_people'

train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=f'{data_root}/{_base_.val_dataloader.dataset.ann_file}')
test_evaluator = dict(ann_file=f'{data_root}/{_base_.test_dataloader.dataset.ann_file}')
prompt_dataset = dict(data_root=data_root)
