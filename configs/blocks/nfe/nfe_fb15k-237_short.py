# NFE-1 on FB15k-237 for two CPU cores. The settings are those found on WN18RR, with the learning rate lowered by the
# ratio of the released rates; they have not been tested on this data set.
_base_ = './nfe_fb15k-237.py'

max_epochs = 16
model = dict(dim=100, init_bound=0.5, num_negatives=2048)
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=True, end=max_epochs, convert_to_iter_based=True)
]
