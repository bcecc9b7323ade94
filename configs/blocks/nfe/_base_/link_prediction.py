# Settings of every run of link prediction: loaders, evaluation, hooks. A config adds data set and sizes.
default_scope = 'dinor1'

model = dict(type='NFELinkPredictor', kind='nfe-1', dim=1024, init_bound=0.1)

train_dataloader = dict(
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='KnowledgeGraphDataset', split='train'),
)
# MMEngine's default collate function makes lists, because queries have different numbers of known tails.
val_dataloader = dict(
    batch_size=512,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='KnowledgeGraphDataset', split='valid', test_mode=True),
)
test_dataloader = dict(
    batch_size=512,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='KnowledgeGraphDataset', split='test', test_mode=True),
)
val_evaluator = dict(type='LinkPredictionMetric')
test_evaluator = dict(type='LinkPredictionMetric', per_relation=True)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', fused=True))

# There is no hook for visualization, because there are no images. Test the checkpoint with the best validation.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='link_prediction/mrr', rule='greater'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    reproducibility=dict(type='ReproducibilityHook'),
    graceful_stop=dict(type='GracefulStopHook'),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_processor = dict(type='LogProcessor', window_size=100, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
