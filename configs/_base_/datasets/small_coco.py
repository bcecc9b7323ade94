# Common settings of the small sets of photographs, with <root>/images and <root>/annotations/{train,val,test}.json. The
# config of a set adds its root.
# The longer side becomes 320 pixels; the shorter side is padded, and the padding is part of the image.
img_scale = (320, 320)
resize = dict(type='Resize', scale=img_scale, keep_ratio=True)
pad = dict(type='Pad', size=img_scale, pad_val=dict(img=(114, 114, 114)))

# Ground truth of an evaluation is loaded after resizing, so that it stays in pixels of the original image, like the
# predictions.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    pad,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]
# Exemplars are loaded before resizing, so that they are in pixels of the prepared image.
prompt_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    pad,
    dict(type='PackDetInputs'),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    dict(type='RandomFlip', prob=0.5),
    pad,
    # Class names are passed with the images, for the language alignment.
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'text')),
]

dataset_base = dict(type='CocoPromptDataset', data_prefix=dict(img='images/'))
train_split = dict(**dataset_base, ann_file='annotations/train.json')
eval_split = dict(**dataset_base, test_mode=True, pipeline=test_pipeline)
eval_loader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)

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
val_dataloader = dict(**eval_loader, dataset=dict(**eval_split, ann_file='annotations/val.json'))
test_dataloader = dict(**eval_loader, dataset=dict(**eval_split, ann_file='annotations/test.json'))

val_evaluator = dict(type='CocoPromptMetric')
test_evaluator = val_evaluator

# Images from which exemplars for visual prompts are drawn at evaluation.
prompt_dataset = dict(**train_split, test_mode=True, pipeline=prompt_pipeline)
