# A classifier with 9,018 parameters, whose trunk is approximately equivariant to affine maps.
model = dict(
    type='ImageClassifier',
    embed_dims=None,
    # The background is 0, like the padding.
    mean=0.0,
    std=255.0,
    backbone=dict(
        type='AffineEquivariantNet',
        width=16,
        depth=2,
        head=64,
        dropout=0.1,
        stem=dict(k=7, stride=2, padding=5),
        # Splines with 3 x 3 knots have as many parameters as 3 x 3 windows; on 5 x 5 windows they can rotate and
        # stretch.
        layers=dict(k=5, norm='batch', padding_mode='replicate'),
        kernel=dict(kind='spline', knots=3, mask='bump'),
        # New samples at every step prevent overfitting to one set of samples; more samples in tests cost little.
        n_samples=4,
        resample='train',
        seed=0,
        # A neighbourhood of the identity that contains affNIST's maps; large rotations would turn a 6 into a 9.
        sampling=dict(rot_bound=0.2, spd_var=0.1, mixing='none', n_test=32),
    ),
)
