# A folder of annotated images; `dinor1 train CONFIG --data FOLDER` replaces the folder that is named here.
_base_ = './small_coco.py'

data_root = '{{$DINOR1_DATA:data}}/my_images'

train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=f'{data_root}/{_base_.val_dataloader.dataset.ann_file}')
test_evaluator = dict(ann_file=f'{data_root}/{_base_.test_dataloader.dataset.ann_file}')
prompt_dataset = dict(data_root=data_root)
