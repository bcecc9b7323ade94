# vis-gdino_nano_1xb8_3e_shapes.py with an affine-equivariant backbone of the same number of parameters.
_base_ = [
    '../../_base_/models/dino_r1_nano.py',
    '../../_base_/datasets/shapes_warped.py',
    '../../_base_/schedules/nano_3e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='AffineEquivariantBackbone',
        group='gl2',
        widths=(24, 64, 130),
        n_samples=4,
        out_indices=(1, 2),
        proj_channels=(48, 96),
        pool='max',
        layers=dict(k=5),
        kernel=dict(kind='spline', mask='bump', support_radius=1.2),
        sampling=dict(rot='uniform', spd_var=0.1, mixing='none'),
    ),
)
