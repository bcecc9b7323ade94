# The generated shapes world: 12 base categories for training and evaluation, images of 128 to 160 pixels.
data_root = '{{$DINOR1_DATA:data}}/shapes'
val_ann_file = 'annotations/val_base.json'

# The images are small and of similar size: they are not resized, but padded to one size, and the padding is part of the
# image. With padding per batch, the alignment with coarse feature maps, and so the results, would depend on the batch.
pad = dict(type='Pad', size=(160, 160), pad_val=dict(img=(114, 114, 114)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    pad,
    # Class names are passed with the images, for the language alignment.
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'text')),
]
# Resizing by 1 changes no pixel; it sets scale_factor, by which predictions are divided.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=1.0, keep_ratio=True),
    pad,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]

dataset_base = dict(type='CocoPromptDataset', data_root=data_root)
train_split = dict(**dataset_base, ann_file='annotations/train.json', data_prefix=dict(img='images/train/'))

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    dataset=dict(
        **train_split,
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
        return_classes=True,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset_base,
        ann_file=val_ann_file,
        data_prefix=dict(img='images/val_base/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='CocoPromptMetric', ann_file=f'{data_root}/{val_ann_file}')
test_evaluator = val_evaluator

# Images from which exemplars for visual prompts are drawn at evaluation.
prompt_dataset = dict(**train_split, test_mode=True, pipeline=test_pipeline)
