# photo_mix: photographs of several sources, each annotated only for its own categories. The 130 base categories are
# those that are not in novel_categories.txt. Training images that show one of the 32 novel categories are left out, so
# that 1,854 of 2,576 remain.
data_root = '{{$DINOR1_DATA:data}}/photo_mix'
novel_categories = 'annotations/novel_categories.txt'
val_ann_file = 'annotations/val.json'
test_ann_file = 'annotations/test.json'

# The longer side becomes 288 pixels; the shorter side is padded, and the padding is part of the image.
img_scale = (288, 288)
resize = dict(type='Resize', scale=img_scale, keep_ratio=True)
pad = dict(type='Pad', size=img_scale, pad_val=dict(img=(114, 114, 114)))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
# Class names, and the classes that an image was annotated for, are passed with the images.
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'text', 'annotated_labels', 'exhaustive_labels'),
)
train_pipeline = [*load, resize, dict(type='RandomFlip', prob=0.5), pad, pack]
# For long trainings: pasted instances of other images, mosaics of four images, random sizes, crops and colours. A
# recipe uses it by train_dataloader = dict(dataset=dict(pipeline={{_base_.strong_pipeline}})).
strong_pipeline = [
    *load,
    dict(type='PasteInstances', prob=0.3),
    dict(type='SameSourceMosaic', img_scale=img_scale, prob=0.3),
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.6, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=img_scale, allow_negative_crop=True),
    dict(type='RandomFlip', prob=0.5),
    pad,
    pack,
]
# Ground truth of an evaluation is loaded after resizing, so that it stays in pixels of the original image, like the
# predictions.
test_pipeline = [load[0], resize, pad, load[1], dict(type='PackDetInputs')]
# Exemplars are loaded before resizing, so that they are in pixels of the prepared image.
prompt_pipeline = [*load, resize, pad, dict(type='PackDetInputs')]

dataset_base = dict(
    type='CocoPromptDataset', data_root=data_root, data_prefix=dict(img='images/'), exclude_categories=novel_categories
)
train_split = dict(**dataset_base, ann_file='annotations/train.json')
eval_split = dict(**dataset_base, test_mode=True, pipeline=test_pipeline)
eval_loader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='SourceBatchSampler'),
    dataset=dict(
        **train_split,
        federated=True,
        # The annotation file states that it is exhaustive, but distant or truncated products often have no box.
        not_exhaustive=['freiburg_groceries'],
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
        return_classes=True,
    ),
)
val_dataloader = dict(**eval_loader, dataset=dict(**eval_split, ann_file=val_ann_file))
test_dataloader = dict(**eval_loader, dataset=dict(**eval_split, ann_file=test_ann_file))

# As for LVIS, an image is evaluated for the categories of its own source only.
evaluator = dict(type='LVISFixedMetric', not_exhaustive=['freiburg_groceries'])
val_evaluator = dict(**evaluator, ann_file=f'{data_root}/{val_ann_file}')
test_evaluator = dict(**evaluator, ann_file=f'{data_root}/{test_ann_file}')

# Images from which exemplars for visual prompts are drawn at evaluation.
prompt_dataset = dict(**train_split, test_mode=True, pipeline=prompt_pipeline)
