# Objects365 v1: 608,606 training and 30,000 validation images, 365 categories. Pipelines are those of COCO.
_base_ = './coco_detection.py'

data_root = '{{$DINOR1_DATA:data}}/objects365v1'
val_ann_file = 'annotations/objects365_val.json'

train_split = dict(
    data_root=data_root,
    ann_file='annotations/objects365_train.json',
    data_prefix=dict(img='train/'),
)
train_dataloader = dict(batch_size=4, dataset=train_split)
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file=val_ann_file, data_prefix=dict(img='val/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/{val_ann_file}')
test_evaluator = val_evaluator
prompt_dataset = train_split
