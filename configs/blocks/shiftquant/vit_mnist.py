# The small ViT of the norms, trained with 6-bit integers: all linear maps but patch embedding and head.
_base_ = '../normalization/vit_mnist.py'

model_converters = [
    dict(type='IntegerTraining', bits=(6, 6, 6), skip=['backbone.patch_embed', 'head'], backend='int8'),
]
