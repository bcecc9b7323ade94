# Fine-tunes the released detector on a folder of annotated images: dinor1 train lite/fine-tune --data FOLDER
# It is evaluated with exemplars from the training images.
_base_ = [
    '../_base_/models/dino_r1_lite.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/lite_5e.py',
    '../_base_/default_runtime.py',
]

load_from = 'dinor1://lite'
model = dict(
    # The backbone comes with the released weights.
    backbone=dict(pretrained=False),
    # Exemplars come from the image itself or from others, and an image is often offered only some of the prompts.
    prompts=dict(prompt_sampling='per_image', prompt_dropout=0.5),
)
max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-6, by_epoch=True, convert_to_iter_based=True),
]
