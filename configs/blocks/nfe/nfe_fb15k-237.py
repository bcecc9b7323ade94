# NFE on FB15k-237, the full run as released: every step scores all entities. Meant for a GPU.
#
# This is NFE-1. --cfg-options with the released settings of the other models:
#
#   model.kind   model.dim  model.gamma  train_dataloader   optim_wrapper   param_scheduler
#                                        .batch_size        .optimizer.lr   .0.gamma
#   nfe-1             1024            2              1024           0.001              0.93
#   nfe-2             1024            1               256           0.001              0.90
#   nfe-3             1024            2               256           0.001              0.90
#   nfe-mu            1024            0               128          0.0005              0.95
#   nfe-sigma         1024            0               128           0.001              0.93
#   transe             512            3              1024           0.003              0.90
#   distmult           512            0               128           0.010              0.90
_base_ = './_base_/link_prediction.py'

size = dict(num_entities=14_541, num_relations=237)
data = dict(data_root='{{$DINOR1_DATA:data}}/fb15k-237', **size)

model = dict(**size, gamma=2.0)
train_dataloader = dict(batch_size=1024, dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = dict(dataset=data)
optim_wrapper = dict(optimizer=dict(lr=0.001))
param_scheduler = [dict(type='ExponentialLR', gamma=0.93, by_epoch=True)]
