# The plain network with the layout and the 9,018 parameters of affnist_lie.py.
model = dict(
    type='ImageClassifier',
    embed_dims=None,
    mean=0.0,
    std=255.0,
    backbone=dict(
        type='PlainConvNet',
        width=16,
        depth=2,
        head=64,
        dropout=0.1,
        k=3,
        stem_stride=2,
        stem_padding=4,
        padding_mode='replicate',
        norm='batch',
    ),
)
