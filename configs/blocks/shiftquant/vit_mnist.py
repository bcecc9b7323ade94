# The small ViT of normalization/vit_mnist.py, trained with 6-bit integers in all linear layers except patch embedding
# and head.
_base_ = '../normalization/vit_mnist.py'

model_converters = [
    dict(type='IntegerTraining', bits=(6, 6, 6), skip=['backbone.patch_embed', 'head'], backend='int8'),
]
