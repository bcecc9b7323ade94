# The supervised nano detector on the shapes world, two epochs, trained with 8-bit integers.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../../_base_/datasets/shapes.py',
    '../../_base_/schedules/nano_6e.py',
    '../../_base_/default_runtime.py',
]

max_epochs = 2
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [dict(_base_.param_scheduler[0], total_steps=max_epochs)]
# The first convolution, the heads, and the layers that predict sampling points of deformable attention stay in floating
# point.
model_converters = [
    dict(
        type='IntegerTraining',
        bits=(8, 8, 8),
        skip=['backbone.stem.0', 're:bbox_head.*', r're:.*\.(sampling_offsets|attention_weights)'],
        backend='int8',
    ),
]
