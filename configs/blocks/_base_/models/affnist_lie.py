# A classifier of 9,018 parameters whose trunk is equivariant to affine maps, as far as its samples go.
model = dict(
    type='ImageClassifier',
    embed_dims=None,
    # Background is 0, so that padding continues it.
    mean=0.0,
    std=255.0,
    backbone=dict(
        type='AffineEquivariantNet',
        width=16,
        depth=2,
        head=64,
        dropout=0.1,
        stem=dict(k=7, stride=2, padding=5),
        # Splines with 3 x 3 knots have the parameters of 3 x 3 windows; read on 5 x 5, they can turn and stretch.
        layers=dict(k=5, norm='batch', padding_mode='replicate'),
        kernel=dict(kind='spline', knots=3, mask='bump'),
        # Fresh samples at every step keep the network from fitting one set; more of them in tests cost little.
        n_samples=4,
        resample='train',
        seed=0,
        # A neighbourhood of the identity that affNIST's maps lie in; a 6 must not become a 9.
        sampling=dict(rot_bound=0.2, spd_var=0.1, mixing='none', n_test=32),
    ),
)
