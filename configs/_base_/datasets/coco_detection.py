# COCO 2017: 118,287 training and 5,000 validation images, 80 categories. Multi-scale training as in DINO.
data_root = '{{$DINOR1_DATA:data}}/coco'
val_ann_file = 'annotations/instances_val2017.json'

# The shorter side is drawn from 480, 512, ..., 800 pixels; the longer side never exceeds 1333.
max_long_side = 1333
multi_scale = dict(
    type='RandomChoiceResize',
    scales=[(short_side, max_long_side) for short_side in range(480, 801, 32)],
    keep_ratio=True,
)
# Half of the images are resized and cropped before. The limit of 4200 hardly ever applies to the longer side.
crop_first = [
    dict(type='RandomChoiceResize', scales=[(400, 4200), (500, 4200), (600, 4200)], keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[[multi_scale], [*crop_first, multi_scale]]),
    dict(type='PackDetInputs'),
]
test_resize = dict(type='Resize', scale=(max_long_side, 800), keep_ratio=True)
# Ground truth of an evaluation is loaded after resizing, so that it stays in pixels of the original image, like the
# predictions.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    test_resize,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]
# Exemplars are loaded before resizing, so that they are in pixels of the prepared image.
prompt_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    test_resize,
    dict(type='PackDetInputs'),
]

# The official files have a few boxes without area, which are left out, as in MMDetection.
dataset_base = dict(type='CocoPromptDataset', data_root=data_root, bad_annotations='skip')
train_split = dict(
    **dataset_base,
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
)

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler', group_by_aspect_ratio=True),
    dataset=dict(**train_split, filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset_base,
        ann_file=val_ann_file,
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='CocoPromptMetric', ann_file=f'{data_root}/{val_ann_file}')
test_evaluator = val_evaluator

# Images from which exemplars for visual prompts are drawn at evaluation.
prompt_dataset = dict(**train_split, test_mode=True, pipeline=prompt_pipeline)
