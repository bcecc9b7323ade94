# DINO-R1 with Swin-T, fine-tuned on COCO. One epoch of supervised fine-tuning, then GRQO.
_base_ = [
    '../_base_/models/dino_r1_swin-t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_12e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(bbox_head=dict(loss_grqo={{_base_.loss_grqo}}))
default_hooks = dict(
    reference=dict(warmup=1, dtype='bfloat16'),
)

# The public weights of MM-Grounding-DINO-T, downloaded when a training starts. They lack only the prompt encoder,
# which the supervised epoch trains. A checkpoint of dino-r1_swin-t_8xb4_6e_o365 has a prompt
# encoder and needs no supervised epoch: --cfg-options load_from=PATH default_hooks.reference.warmup=0
load_from = {{_base_.mm_grounding_dino}}
