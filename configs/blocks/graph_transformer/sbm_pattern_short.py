# PATTERN for one CPU core: communities of 5 to 19 nodes, 400 graphs with a pattern each, a network of 4 layers, a
# constant rate.
_base_ = './sbm_pattern.py'

batch_size = 16
model = dict(dim=48, num_layers=4, num_heads=4)
small = dict(graphs=dict(size_max=20, num_graphs=100, num_patterns=None))
graphs = dict(size_max=20, num_graphs=400, num_patterns=None)
train_dataloader = dict(batch_size=batch_size, dataset=dict(graphs=graphs))
val_dataloader = dict(batch_size=batch_size, dataset=small)
test_dataloader = dict(batch_size=batch_size, dataset=small)
train_cfg = dict(max_epochs=15, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = []
