# The generated icon world: images of 160 to 192 pixels, training on 1,200 concepts, validation on 150 others. Exemplars
# at validation are other drawings of a concept than the objects to find. Written by `dinor1 make-data icons`.
data_root = '{{$DINOR1_DATA:data}}/icons'
val_ann_file = 'annotations/val_novel.json'
support = 'support_val_novel'

# Small images of nearly one size: none is resized, all are padded to one size as part of the image. No flip: "arrow
# left" would become "arrow right".
pad = dict(type='Pad', size=(192, 192), pad_val=dict(img=(114, 114, 114)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
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

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    dataset=dict(
        **dataset_base,
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/train/'),
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
        data_prefix=dict(img='images/val_novel/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='LVISFixedMetric', ann_file=f'{data_root}/{val_ann_file}')
test_evaluator = val_evaluator

# Images from which exemplars for visual prompts are drawn at evaluation.
prompt_dataset = dict(
    **dataset_base,
    ann_file=f'annotations/{support}.json',
    data_prefix=dict(img=f'images/{support}/'),
    test_mode=True,
    pipeline=test_pipeline,
)
