# MNIST: a seeded subset of the training digits, and all 10,000 test digits. The four IDX files are in data/mnist.
data_root = '{{$DINOR1_DATA:data}}/mnist'
num_samples = 10_000

loader = dict(num_workers=0, collate_fn=dict(type='default_collate'))
train_dataloader = dict(
    **loader,
    batch_size=64,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler', drop_last=True),
    dataset=dict(type='MNIST', data_root=data_root, split='train', num_samples=num_samples),
)
val_dataloader = dict(
    **loader,
    batch_size=500,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='MNIST', data_root=data_root, split='test'),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='Accuracy')
test_evaluator = val_evaluator
