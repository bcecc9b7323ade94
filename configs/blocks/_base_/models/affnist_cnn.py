# Plain convolutional network with the layers and the 9,018 parameters of affnist_lie.py.
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
        stem=dict(stride=2, padding=4),
        layers=dict(k=3, norm='batch', padding_mode='replicate'),
    ),
)
