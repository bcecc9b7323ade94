# The shapes world on a canvas of 256 pixels, in training too: positions are encoded relative to it. Tests are on
# rotated, sheared or scaled copies of the validation images, prompts come from untouched training images. Written by
#   dinor1 make-data shapes-warped
#   dinor1 make-data shapes-warped --split train --variants identity --out data/shapes_canvas
_base_ = './shapes.py'

warped_root = '{{$DINOR1_DATA:data}}/shapes_warped'
variant = 'identity'
# The canvas is the padding.
train_pipeline = [*_base_.train_pipeline[:3], *_base_.train_pipeline[4:]]
test_pipeline = [*_base_.test_pipeline[:2], *_base_.test_pipeline[3:]]
train_files = dict(
    data_root='{{$DINOR1_DATA:data}}/shapes_canvas',
    ann_file='annotations/identity.json',
    data_prefix=dict(img='images/identity/'),
)

train_dataloader = dict(dataset=dict(**train_files, pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        data_root=warped_root,
        ann_file=f'annotations/{variant}.json',
        data_prefix=dict(img=f'images/{variant}/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{warped_root}/annotations/{variant}.json')
test_evaluator = val_evaluator
prompt_dataset = dict(**train_files, pipeline=test_pipeline)
