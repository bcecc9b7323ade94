# NFE-1 on FB15k-237 for two CPU cores, with the settings of nfe_wn18rr_short. Not tried: the data were not at hand.
_base_ = './nfe_fb15k-237.py'

max_epochs = 30
model = dict(dim=100, init_bound=0.5, num_negatives=2048)
train_dataloader = dict(batch_size=1024)
train_cfg = dict(max_epochs=max_epochs, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=True, end=max_epochs, convert_to_iter_based=True)
]
