"""Affine groups: group laws, modular function, and the action on images."""

import copy
import math
import pickle

import pytest
import torch

from dinor1.blocks.lie import GROUPS, SL2, Affine, Affine2, GLp2, make_group, smooth_images


def random_elements(affine, count, seed):
    generator = torch.Generator().manual_seed(seed)
    h = affine.group.sample(count, generator, spd_var=0.5, dtype=torch.float64).g
    return affine.element(h, torch.randn(count, affine.n, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize('name', GROUPS)
def test_group_copies_and_pickles(name):
    """Reference models, averages of weights and checkpoints of whole models need this."""
    group = make_group(name)
    for copied in (copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        mine, theirs = (g.sample(4, torch.Generator().manual_seed(0)) for g in (group, copied))
        assert torch.equal(mine.g, theirs.g)


@pytest.mark.parametrize('name', GROUPS)
def test_affine_group_axioms(name):
    affine = Affine(make_group(name))
    a, b, c = (random_elements(affine, 9, seed) for seed in (1, 2, 3))
    close = dict(rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        affine.compose(affine.compose(a, b), c), affine.compose(a, affine.compose(b, c)), **close
    )
    identity = affine.element(torch.eye(affine.n, dtype=torch.float64)).expand_as(a)
    torch.testing.assert_close(affine.compose(a, affine.inverse(a)), identity, **close)
    torch.testing.assert_close(affine.compose(affine.inverse(a), a), identity, **close)
    points = torch.randn(9, 5, affine.n, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    torch.testing.assert_close(affine.act(affine.compose(a, b), points), affine.act(a, affine.act(b, points)), **close)
    torch.testing.assert_close(affine.modular(affine.compose(a, b)), affine.modular(a) * affine.modular(b), **close)
    assert (affine.modular(a) - 1).abs().max() < 1e-9 or not affine.group.unimodular_on_R2


def test_affine_left_haar_measure_by_jacobian():
    """Left translation is (x, g) -> (y + h x, h g): it scales dx by det h, which ``|det g|^-1`` cancels."""
    affine = Affine2(GLp2())
    a, b = random_elements(affine, 20, 5), random_elements(affine, 20, 6)
    moved = affine.compose(b, a)
    h, g = b[..., :2], a[..., :2]
    jacobian = torch.linalg.det(h)
    torch.testing.assert_close(affine.modular(moved) * jacobian, affine.modular(a), rtol=1e-10, atol=0)
    density = affine.haar_density(a)
    torch.testing.assert_close(density, affine.group.haar_density(affine.group.coords(g)) / torch.linalg.det(g))


def test_warp_moves_blob_to_image_of_its_point():
    """A blob at p moves to h p + x, in units of half the shorter side, x to the right and y down."""
    affine = Affine2(GLp2())
    height, width, side = 40, 60, 40
    ys = (2 * torch.arange(height, dtype=torch.float64) + 1 - height) / side
    xs = (2 * torch.arange(width, dtype=torch.float64) + 1 - width) / side

    def blob(x, y):
        return (-((xs - x).square() + (ys - y).square().unsqueeze(-1)) / (2 * 0.15**2)).exp()

    angle = math.radians(30)
    h = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    a = affine.element(h, torch.tensor([0.2, -0.1], dtype=torch.float64))
    x, y = affine.act(a, torch.tensor([[0.4, 0.1]], dtype=torch.float64))[0].tolist()
    warped = affine.warp(blob(0.4, 0.1)[None, None], a)[0, 0]
    # A rotation moves a round blob; bicubic interpolation of a blob of 3 pixels is off by 1.3 % of its height.
    torch.testing.assert_close(warped, blob(x, y), rtol=0, atol=0.02)


def test_warp_is_group_action():
    affine = Affine2(GLp2())
    image = smooth_images(2, 3, 41, 41, dtype=torch.float64)
    h, k = GLp2().sample(2, torch.Generator().manual_seed(7), rot='uniform', dtype=torch.float64).g
    one, both = affine.warp(affine.warp(image, k), h), affine.warp(image, h @ k)
    # Two interpolations compared with one; in the wrong order the images differ.
    assert (one - both).norm() < 0.03 * both.norm()
    assert (affine.warp(affine.warp(image, k), h) - affine.warp(image, k @ h)).norm() > 0.3 * both.norm()


def test_warp_quarter_turn_is_clockwise_on_array():
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    image = torch.rand(2, 3, 4, 9, 9, dtype=torch.float64)
    warped = Affine2(SL2()).warp(image, quarter, mode='nearest')
    assert torch.equal(warped, image.rot90(-1, (-2, -1)))


def test_warp_with_one_map_per_image():
    image = torch.rand(2, 1, 8, 8)
    eye = torch.eye(2)
    maps = torch.stack([eye, 2 * eye])
    warped = Affine2(GLp2()).warp(image, maps, mode='bilinear')
    torch.testing.assert_close(warped[0], image[0])
    torch.testing.assert_close(warped[1:], Affine2(GLp2()).warp(image[1:], 2 * eye, mode='bilinear'))


def test_affine_bad_input_raises():
    affine = Affine2(SL2())
    image = torch.rand(3, 1, 8, 8)
    with pytest.raises(ValueError, match='must have determinant 1'):
        affine.warp(image, 2 * torch.eye(2))
    with pytest.raises(ValueError, match='2 transformations do not fit 3 images'):
        affine.warp(image, torch.eye(2).expand(2, 2, 2))
    with pytest.raises(ValueError, match=r'image must be \(B, ..., H, W\)'):
        affine.warp(torch.rand(8, 8), torch.eye(2))
    with pytest.raises(ValueError, match=r'must be \(..., 2, 3\), got \(3, 3\)'):
        affine.inverse(torch.eye(3))
    with pytest.raises(ValueError, match=r'a shift must be \(..., 2\)'):
        affine.element(torch.eye(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r'points must be \(..., P, 2\)'):
        affine.act(affine.element(torch.eye(2)), torch.zeros(4, 3))
    with pytest.raises(ValueError, match='group of 2 x 2 matrices'):
        Affine2(make_group('gl3'))
