# Settings of every run of the graph transformer: loaders, the released schedule, hooks. A config adds data set and
# sizes.
#
# Adam; the learning rate is halved when the validation loss stops falling, until it is below 1e-6 (arXiv 2012.09699).
# The published results are those of the last epoch, not of the best one.
default_scope = 'dinor1'

model = dict(type='GraphPredictor', num_layers=10, num_heads=8, norm='batch')

collate = dict(type='graph_collate')
train_dataloader = dict(
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    collate_fn=collate,
    dataset=dict(split='train'),
)
val_dataloader = dict(
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=collate,
    dataset=dict(split='val'),
)
test_dataloader = dict(
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=collate,
    dataset=dict(split='test'),
)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1000, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam'))

# There is no hook for visualization, because there are no images.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    reproducibility=dict(type='ReproducibilityHook'),
    graceful_stop=dict(type='GracefulStopHook'),
    plateau=dict(type='PlateauHook', min_lr=1e-6),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
