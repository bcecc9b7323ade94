"""The detector backbone: levels, equivariance, reproducible samples, a step of the nano detector, errors."""

import pytest
import torch

from dinor1.blocks.lie import SL2, Affine2, KernelConfig, smooth_images
from dinor1.blocks.lie.backbone import AffineEquivariantBackbone
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

QUARTER = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
SMALL = dict(widths=(4, 4, 6, 6), n_samples=3, proj_channels=(5, 6, 7, 8), kernel=dict(hidden=8))


def build(**options):
    torch.manual_seed(0)
    return AffineEquivariantBackbone(**{**SMALL, **options})


def test_backbone_levels_have_pyramid_strides_and_channels():
    maps = build()(torch.randn(2, 3, 64, 96))
    assert [tuple(level.shape) for level in maps] == [
        (2, 5, 16, 24),
        (2, 6, 8, 12),
        (2, 7, 4, 6),
        (2, 8, 2, 3),
    ]


def test_backbone_unused_stages_are_not_built():
    backbone = build(out_indices=(1,), proj_channels=(6,))
    assert len(backbone.stages) == 2
    assert [tuple(level.shape) for level in backbone(torch.randn(1, 3, 32, 32))] == [(1, 6, 4, 4)]


@pytest.mark.parametrize(
    'options',
    [
        dict(group='gl2'),
        dict(group='sl2'),
        dict(group='so2'),
        dict(group='sim2'),
        dict(sampling=dict(mixing='none'), kernel=dict(kind='spline')),
    ],
)
def test_backbone_is_equivariant_to_quarter_turns(options):
    """Exact for quarter turns with transported samples.

    The stem reads every second pixel, which is symmetric on odd sides only; after it sides are even.
    """
    backbone = build(**options).eval()
    samples = backbone.sampler()
    x = torch.randn(1, 3, 63, 63)
    with torch.no_grad():
        expected = [level.rot90(-1, (2, 3)) for level in backbone(x, samples)]
        got = backbone(x.rot90(-1, (2, 3)), samples.transport(QUARTER))
        for ours, theirs in zip(got, expected, strict=True):
            assert (ours - theirs).norm() < 1e-4 * theirs.norm()
        # The samples must be transported: with the old samples the maps differ.
        still = backbone(x.rot90(-1, (2, 3)), samples)
        assert any((ours - theirs).norm() > 1e-2 * theirs.norm() for ours, theirs in zip(still, expected, strict=True))


def test_backbone_is_equivariant_to_stretching():
    kernel = dict(hidden=8, w0=3.0, support_radius=1.0)
    backbone = build(group='sl2', layers=dict(k=5), kernel=kernel, out_indices=(0,), proj_channels=(4,)).eval()
    samples, plane = backbone.sampler(), Affine2(SL2())
    x = smooth_images(1, 3, 95, 95, generator=torch.Generator().manual_seed(0))
    h = torch.diag(torch.tensor([1.2, 1 / 1.2]))
    with torch.no_grad():
        (level,) = backbone(x, samples)
        (moved,) = backbone(plane.warp(x, h), samples.transport(h))
        expected = plane.warp(level, h, padding_mode='border')
        inside = slice(5, -5)
        error = (moved - expected)[..., inside, inside].norm()
        change = (level - expected)[..., inside, inside].norm()
    # Pooling windows of two pixels are coarse, but equivariance explains most of the change.
    assert error < 0.35 * change


def test_backbone_samples_are_fixed_in_tests_and_new_in_training():
    x = torch.randn(1, 3, 32, 32)
    backbone = build()
    with torch.no_grad():
        backbone.eval()
        first = backbone(x)
        assert all(torch.equal(a, b) for a, b in zip(first, backbone(x), strict=True))
        backbone.train()
        draws = [backbone.sampler().g for _ in range(2)]
    assert not torch.equal(*draws)
    # A second process with the same seed draws the same samples, even after other draws.
    torch.manual_seed(99)
    replica = AffineEquivariantBackbone(**SMALL)
    assert torch.equal(replica.train().sampler().g, build().sampler.draw(0).g)


def test_backbone_trains_in_nano_detector(build_tiny, make_batch):
    backbone = dict(
        _delete_=True,
        type='AffineEquivariantBackbone',
        widths=(4, 4, 6),
        n_samples=3,
        out_indices=(1, 2),
        proj_channels=(16, 32),
        kernel=dict(hidden=8),
    )
    model = build_tiny(**{'model.backbone': backbone}).train()
    assert isinstance(model.backbone, AffineEquivariantBackbone)
    # All parameters of the backbone get finite gradients.
    losses = model.loss(*make_batch())
    total = sum(value.sum() for name, value in losses.items() if 'loss' in name)
    assert total.isfinite()
    total.backward()
    gradients = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


def test_lie_classifiers_are_registered():
    backbone = dict(type='AffineEquivariantNet', group='gl2', width=3, n_samples=2, head=8, kernel=dict(hidden=4))
    for config in (backbone, dict(type='PlainConvNet', width=3, head=8)):
        classifier = MODELS.build(dict(type='ImageClassifier', backbone=config, embed_dims=None))
        inputs, labels = torch.randint(0, 256, (2, 1, 40, 40), dtype=torch.uint8), torch.tensor([1, 2])
        assert classifier(inputs, labels, mode='loss')['loss'].isfinite()
        assert classifier(inputs).shape == (2, 10)


def test_backbone_bad_arguments_raise():
    with pytest.raises(ValueError, match='images must be at least 32 pixels on either side, got'):
        build()(torch.zeros(1, 3, 31, 64))
    with pytest.raises(ValueError, match=r'LiftingConv2d takes \(B, C, H, W\)'):
        build()(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r'out_indices must ascend within 0 to 3, got \(0, 4\)'):
        build(out_indices=(0, 4), proj_channels=(1, 2))
    with pytest.raises(ValueError, match='proj_channels needs one number per out_indices'):
        build(out_indices=(0, 1))
    with pytest.raises(ValueError, match='images need a group of the plane'):
        build(group='e2')
    with pytest.raises(ValueError, match="mixing must be 'all' or 'none' in a backbone"):
        build(sampling=dict(mixing='last'))
    with pytest.raises(InputError, match="kernel: unknown key 'hiden'; did you mean 'hidden'"):
        build(kernel=dict(hiden=8))


def test_backbone_settings_may_be_dataclass_or_dict():
    settings = (KernelConfig(hidden=8, mask='bump', support_radius=1.2), dict(hidden=8))
    first, second = (build(kernel=kernel) for kernel in settings)
    assert repr(first) == repr(second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_backbone_evaluation_may_have_more_samples_without_mixing():
    backbone = build(sampling=dict(mixing='none', n_test=7))
    assert len(backbone.train().sampler().g) == 3
    assert len(backbone.eval().sampler().g) == 7
