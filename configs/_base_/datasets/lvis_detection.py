# LVIS v1: 100,170 training and 19,809 validation images, 1,203 categories. Images and pipelines are those of COCO 2017;
# the annotation files are in COCO's folder.
_base_ = './coco_detection.py'

data_root = '{{$DINOR1_DATA:data}}/coco'
train_ann_file = 'annotations/lvis_v1_train.json'
val_ann_file = 'annotations/lvis_v1_val.json'

# File names in both annotation files include the folder, train2017 or val2017.
dataset_base = dict(type='LVISPromptDataset', data_prefix=dict(img=''))
train_split = dict(**dataset_base, ann_file=train_ann_file)
train_dataloader = dict(dataset=train_split)
val_dataloader = dict(dataset=dict(**dataset_base, ann_file=val_ann_file))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='LVISFixedMetric', ann_file=f'{data_root}/{val_ann_file}')
test_evaluator = val_evaluator
prompt_dataset = train_split
