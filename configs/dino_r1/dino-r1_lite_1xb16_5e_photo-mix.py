# A smoke test of the lite detector: one epoch of supervised fine-tuning, then GRQO, on the base categories of
# photo_mix; evaluated on the novel ones, with a box on the image itself as the prompt.
_base_ = [
    '../_base_/models/dino_r1_lite.py',
    '../_base_/datasets/photo_mix_novel.py',
    '../_base_/schedules/lite_5e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}))
val_cfg = dict(prompts=dict(type='VisualInteractive'))
test_cfg = dict(prompts=dict(type='VisualInteractive'))
