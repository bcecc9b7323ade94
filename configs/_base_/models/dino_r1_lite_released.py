# The lite detector, to be fine-tuned from its released weights, without its text side.
_base_ = './dino_r1_lite.py'

model = dict(
    # The backbone comes with the released weights.
    backbone=dict(pretrained=False),
    # Exemplars lie on the image itself or on others, and an image is often offered only some of the prompts.
    prompts=dict(prompt_sampling='per_image', prompt_dropout=0.5),
)
