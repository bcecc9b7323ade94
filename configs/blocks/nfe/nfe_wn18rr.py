# NFE on WN18RR, the full run as released: every step scores all entities. Meant for a GPU.
#
# This is NFE-1. --cfg-options with the released settings of the other models:
#
#   model.kind   model.dim  model.gamma  train_dataloader   optim_wrapper   param_scheduler
#                                        .batch_size        .optimizer.lr   .0.gamma
#   nfe-1             1024            1               128           0.005              0.90
#   nfe-2             1024            0               128           0.003              0.93
#   nfe-3             1024           14               512           0.010              0.93
#   nfe-mu            1024            0               128           0.005              0.93
#   nfe-sigma         1024            4               128           0.010              0.93
#   transe             512            2               256           0.010              0.90
#   distmult           512            0               128           0.003              1.00
_base_ = './_base_/link_prediction.py'

size = dict(num_entities=40_943, num_relations=11)
data = dict(data_root='{{$DINOR1_DATA:data}}/wn18rr', **size)

model = dict(**size, gamma=1.0)
train_dataloader = dict(batch_size=128, dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
optim_wrapper = dict(optimizer=dict(lr=0.005))
param_scheduler = [dict(type='ExponentialLR', gamma=0.90, by_epoch=True)]
