# A GPT-2 of 0.2 M parameters on bytes of English text: 600 steps, then 600 at a third of the learning rate.
_base_ = '../../_base_/default_runtime.py'

loader = dict(num_workers=0, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    **loader,
    batch_size=32,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='PythonTopics', split='train', num_samples=38_400),
)
val_dataloader = dict(
    **loader,
    batch_size=128,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='PythonTopics', split='test'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CrossEntropy')
test_evaluator = val_evaluator

model = dict(type='GPT2')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1200, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=1e-2),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=50, by_epoch=False),
    dict(type='MultiStepLR', milestones=[600], gamma=1 / 3, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1200))
log_processor = dict(by_epoch=False)
