# CLUSTER with the graph sizes of the benchmark, for ten minutes on one CPU core: 1,000 training graphs instead of
# 10,000, and 4 layers.
_base_ = './sbm_cluster.py'

batch_size, max_epochs = 16, 60
model = dict(dim=48, num_layers=4, num_heads=4)
train_dataloader = dict(batch_size=batch_size, dataset=dict(graphs=dict(num_graphs=1000)))
val_dataloader = dict(batch_size=batch_size)
test_dataloader = dict(batch_size=batch_size)
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-5, by_epoch=True)]
