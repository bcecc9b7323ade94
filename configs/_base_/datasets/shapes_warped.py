# Training and validation on the shapes world; tests on rotated, sheared or scaled copies of the validation images that
# tools/dataset_converters/warp_shapes.py writes. Prompts come from untouched training images.
_base_ = './shapes.py'

warped_root = '{{$DINOR1_DATA:data}}/shapes_warped'
variant = 'rotation-45'
# All variants have one canvas, and need no padding.
warped_pipeline = [_base_.test_pipeline[0], _base_.test_pipeline[1], *_base_.test_pipeline[3:]]

test_dataloader = dict(
    dataset=dict(
        data_root=warped_root,
        ann_file=f'annotations/{variant}.json',
        data_prefix=dict(img=f'images/{variant}/'),
        pipeline=warped_pipeline,
    ),
)
test_evaluator = dict(ann_file=f'{warped_root}/annotations/{variant}.json')
