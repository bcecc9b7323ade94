# LVIS v1 minival: the 4,809 validation images of LVIS that are in COCO's val2017 (Kamath et al. 2021, MDETR). Most
# published zero-shot results on LVIS are on this set.
_base_ = './coco_detection.py'

data_root = '{{$DINOR1_DATA:data}}/coco'
train_ann_file = 'annotations/lvis_v1_train.json'
val_ann_file = 'annotations/lvis_v1_minival_inserted_image_name.json'

# File names in both annotation files include the folder.
dataset_base = dict(type='LVISPromptDataset', data_prefix=dict(img=''))
train_split = dict(**dataset_base, ann_file=train_ann_file)
train_dataloader = dict(dataset=train_split)
val_dataloader = dict(dataset=dict(**dataset_base, ann_file=val_ann_file))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='LVISFixedMetric', ann_file=f'{data_root}/{val_ann_file}')
test_evaluator = val_evaluator
prompt_dataset = train_split
