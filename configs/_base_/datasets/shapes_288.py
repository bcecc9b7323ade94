# The shapes world at the size of photographs: images of 128 to 160 pixels are enlarged to 288.
_base_ = './shapes.py'

img_scale = (288, 288)
resize = dict(type='Resize', scale=img_scale, keep_ratio=True)
pad = dict(type='Pad', size=img_scale, pad_val=dict(img=(114, 114, 114)))
load_image, load_annotations, flip, _, pack = _base_.train_pipeline
train_pipeline = [load_image, load_annotations, resize, flip, pad, pack]
# Ground truth of an evaluation stays in pixels of the original image, like the predictions.
test_pipeline = [load_image, resize, pad, load_annotations, dict(type='PackDetInputs')]
# Exemplars are in pixels of the prepared image.
prompt_pipeline = [load_image, load_annotations, resize, pad, dict(type='PackDetInputs')]

train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
prompt_dataset = dict(pipeline=prompt_pipeline)
