# Twelve epochs with one learning-rate cycle, for small data sets: recipes fine-tune the checkpoint named here.
_base_ = './nano_6e.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [dict(_base_.param_scheduler[0], total_steps=max_epochs)]
# Checkpoint of dino-r1_nano_1xb8_6e_shapes, which `make demo-shapes` trains.
shapes_checkpoint = 'work_dirs/demo_shapes/grqo/epoch_6.pth'
