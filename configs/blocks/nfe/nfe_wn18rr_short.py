# NFE-1 on WN18RR for two CPU cores: a tenth of the width, and a loss that is estimated from one entity in twenty.
# Embeddings start at large distances, near those that the loss asks of unrelated entities; with the released init_bound
# of 0.1, a run of this length learns nothing.
_base_ = './nfe_wn18rr.py'

max_epochs = 16
model = dict(dim=100, init_bound=0.5, num_negatives=2048)
train_dataloader = dict(batch_size=1024)
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=True, end=max_epochs, convert_to_iter_based=True)
]
