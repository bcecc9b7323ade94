# What the small real sets have in common: <root>/images and <root>/annotations/{train,val,test}.json.
# The file of a set adds its root.
img_scale = (320, 320)  # the longer side becomes 320 pixels, the shorter is padded as part of the picture
resize = dict(type='Resize', scale=img_scale, keep_ratio=True)
pad = dict(type='Pad', size=img_scale, pad_val=dict(img=(114, 114, 114)))

# Ground truth of an evaluation is loaded after resizing: it stays in pixels of the original image, as
# predictions do.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    pad,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]
# Exemplar boxes are loaded before resizing: they prompt in pixels of the prepared image.
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
    # Class names travel with the images, for the text side of the alignment.
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

# Where exemplars for visual prompts come from at evaluation.
prompt_dataset = dict(**train_split, test_mode=True, pipeline=prompt_pipeline)
