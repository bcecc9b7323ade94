# Six epochs on Objects365. The number of epochs is published; the rest follows the pretraining of MM-Grounding-DINO:
# its learning rate of 4e-4 for 64 images becomes 2e-4 for 32 images. The rate falls after 4 and 5 of 6 epochs, the
# whole epochs that are closest to COCO's 8 and 11 of 12.
_base_ = './coco_12e.py'

max_epochs = 6
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    _base_.warmup,
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[4, 5], gamma=0.1),
]
# 8 devices with 4 images each.
auto_scale_lr = dict(base_batch_size=32)
