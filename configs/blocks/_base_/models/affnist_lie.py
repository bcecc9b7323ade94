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
        # Splines with 3 x 3 knots have the parameters of 3 x 3 windows; read on 5 x 5, they can turn and stretch.
        kernel='spline',
        knots=3,
        k=5,
        stem_k=7,
        stem_stride=2,
        stem_padding=5,
        mask='bump',
        padding_mode='replicate',
        norm='batch',
        mixing='none',
        # Fresh samples at every step keep the network from fitting one set; more of them in tests cost little.
        n_samples=4,
        n_test_samples=32,
        resample='train',
        seed=0,
        # A neighbourhood of the identity that affNIST's maps lie in; a 6 must not become a 9.
        rot_bound=0.2,
        spd_var=0.1,
    ),
)
