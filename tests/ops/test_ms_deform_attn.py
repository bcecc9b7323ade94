"""Both backends of deformable attention in plain torch, compared with a loop that shares no code with them."""

import math

import pytest
import torch
import torch.nn.functional as F

from dinor1.ops import ms_deform_attn, use_ms_deform_attn_backend
from dinor1.utils.compat import mmcv_attention

PYRAMID = ((7, 5), (3, 4), (1, 2))


@pytest.fixture(autouse=True, params=['reference', 'embedding_bag'])
def backend(request):
    """Run every test with both backends; tests of the Triton kernels are in another file."""
    with use_ms_deform_attn_backend(request.param):
        yield request.param


def level_starts(shapes):
    return [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]


def make_inputs(shapes=PYRAMID, batch=2, heads=3, channels=4, queries=6, points=3, dtype=torch.float64, seed=0):
    """Random inputs of the operator; about a third of the coordinates are outside the image."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64).to(dtype)

    keys, levels = sum(h * w for h, w in shapes), len(shapes)
    value = rand(batch, keys, heads, channels) - 0.5
    locations = rand(batch, queries, heads, levels, points, 2) * 1.5 - 0.25
    weights = rand(batch, queries, heads, levels, points)
    return value, shapes, level_starts(shapes), locations, weights


def loop_reference(value, shapes, starts, locations, weights):
    """Eq. (3) as a loop: one grid_sample call per image, head and level."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    output = value.new_zeros(batch, queries, heads, channels)
    for b in range(batch):
        for h in range(heads):
            for level, ((height, width), start) in enumerate(zip(shapes, starts, strict=True)):
                feature = value[b, start : start + height * width, h].T.reshape(1, channels, height, width)
                grid = 2 * locations[b, :, h, level][None] - 1
                sampled = F.grid_sample(feature, grid, padding_mode='zeros', align_corners=False)[0]
                output[b, :, h] += torch.einsum('cqp,qp->qc', sampled, weights[b, :, h, level])
    return output.flatten(2)


@pytest.mark.parametrize(
    ('shapes', 'heads', 'channels', 'queries', 'points'),
    [
        (PYRAMID, 3, 4, 6, 3),
        (((1, 1),), 1, 1, 1, 1),
        (((5, 8),), 2, 3, 4, 1),
        (((2, 9), (1, 1)), 1, 7, 5, 2),
    ],
)
def test_attention_equals_a_loop(shapes, heads, channels, queries, points):
    inputs = make_inputs(shapes, heads=heads, channels=channels, queries=queries, points=points)
    # Both sum at most a few dozen products of numbers below 1 in float64.
    torch.testing.assert_close(ms_deform_attn(*inputs), loop_reference(*inputs), rtol=0, atol=1e-12)


def test_attention_gradients_equal_a_loop():
    value, shapes, starts, locations, weights = make_inputs()
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    direction = torch.randn(2, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def grads(function):
        return torch.autograd.grad(function(value, shapes, starts, locations, weights), leaves, direction)

    for got, expected in zip(grads(ms_deform_attn), grads(loop_reference), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_attention_equals_mmcv():
    from mmcv.ops import multi_scale_deform_attn

    value, shapes, starts, locations, weights = make_inputs()
    with mmcv_attention():
        theirs = multi_scale_deform_attn.multi_scale_deformable_attn_pytorch
    assert theirs.__code__.co_filename == multi_scale_deform_attn.__file__
    expected = theirs(value, torch.tensor(shapes), locations, weights)
    torch.testing.assert_close(ms_deform_attn(value, shapes, starts, locations, weights), expected, rtol=0, atol=1e-12)


def test_attention_passes_gradcheck():
    value, shapes, starts, locations, weights = make_inputs(
        ((3, 2), (2, 1)), batch=1, heads=2, channels=2, queries=2, points=2
    )
    # Finite differences are wrong where bilinear interpolation is not differentiable: keep 1e-3 away from grid lines.
    size = torch.tensor(shapes, dtype=torch.float64).flip(-1)[:, None]
    pixels = locations * size - 0.5
    assert ((pixels - pixels.round()).abs() > 1e-3).all()
    leaves = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda v, loc, w: ms_deform_attn(v, shapes, starts, loc, w), leaves, eps=1e-6, atol=1e-6
    )


def test_attention_at_pixel_centres_returns_the_pixels():
    """A sample at the centre of a pixel is the pixel; on the border of the level it is half of the border pixel."""
    height, width = 3, 4
    value = torch.arange(12.0).reshape(1, 12, 1, 1) + 1
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    centres = torch.stack(((x + 0.5) / width, (y + 0.5) / height), dim=-1).reshape(1, 12, 1, 1, 1, 2)
    ones = torch.ones(1, 12, 1, 1, 1)
    output = ms_deform_attn(value, [(height, width)], [0], centres, ones)
    torch.testing.assert_close(output.flatten(), torch.arange(12.0) + 1)

    corner = torch.tensor([0.0, 0.5 / height]).reshape(1, 1, 1, 1, 1, 2)
    output = ms_deform_attn(value, [(height, width)], [0], corner, ones[:, :1])
    torch.testing.assert_close(output.flatten(), torch.tensor([0.5]))


@pytest.mark.parametrize('location', [-1.0, 2.0, -1e30, 1e30])
def test_attention_outside_levels_is_zero_without_gradient(location):
    value, shapes, starts, locations, weights = make_inputs()
    leaves = [t.requires_grad_() for t in (value, torch.full_like(locations, location), weights)]
    output = ms_deform_attn(leaves[0], shapes, starts, *leaves[1:])
    assert output.count_nonzero() == 0
    for grad in torch.autograd.grad(output.sum(), leaves):
        assert grad.count_nonzero() == 0


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_attention_with_non_finite_location_affects_one_query_and_head(bad):
    value, shapes, starts, locations, weights = make_inputs()
    clean = ms_deform_attn(value, shapes, starts, locations, weights)
    locations[1, 2, 0, 1, 0] = bad
    value.requires_grad_()
    output = ms_deform_attn(value, shapes, starts, locations, weights)
    heads = output.view(2, 6, 3, 4)
    assert heads[1, 2, 0].isnan().all()
    harmed = torch.zeros(2, 6, 3, 4, dtype=torch.bool)
    harmed[1, 2, 0] = True
    torch.testing.assert_close(heads[~harmed], clean.view(2, 6, 3, 4)[~harmed], rtol=0, atol=0)
    (grad,) = torch.autograd.grad(heads[~harmed].sum(), value)
    assert grad.isfinite().all()


@pytest.mark.parametrize(('batch', 'queries'), [(2, 0), (0, 3)])
def test_attention_of_empty_input_is_empty(batch, queries):
    inputs = list(make_inputs(batch=batch, queries=queries))
    inputs[0].requires_grad_()
    output = ms_deform_attn(*inputs)
    assert output.shape == (batch, queries, 12)
    (grad,) = torch.autograd.grad(output.sum(), inputs[0])
    assert grad.shape == inputs[0].shape
    assert grad.count_nonzero() == 0


def test_attention_accepts_non_contiguous_input():
    value, shapes, starts, locations, weights = make_inputs()
    expected = ms_deform_attn(value, shapes, starts, locations, weights)
    strided = [
        value.transpose(1, 2).contiguous().transpose(1, 2),
        locations.permute(5, 4, 3, 2, 1, 0).contiguous().permute(5, 4, 3, 2, 1, 0),
        torch.stack((weights, weights), dim=-1)[..., 0],
    ]
    assert not any(t.is_contiguous() for t in strided)
    output = ms_deform_attn(strided[0], shapes, starts, *strided[1:])
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert output.is_contiguous()


def test_attention_accepts_levels_as_tensors_or_integers():
    value, shapes, starts, locations, weights = make_inputs()
    output = ms_deform_attn(value, torch.tensor(shapes), torch.tensor(starts), locations, weights)
    torch.testing.assert_close(output, ms_deform_attn(value, shapes, starts, locations, weights), rtol=0, atol=0)


# float32: 24 bits of a location up to 7 pixels and sums of 9 products below 1.
# Half types: rounding the inputs moves a sample by up to 7 * 2**-9 (bfloat16) or 7 * 2**-12 (float16) of a
# pixel, and a weight by 2**-9 or 2**-12 of itself; 9 samples of values up to 0.5 add up.
@pytest.mark.parametrize(('dtype', 'atol'), [(torch.float32, 2e-6), (torch.float16, 1e-2), (torch.bfloat16, 8e-2)])
def test_attention_in_lower_precision_is_close_to_float64(dtype, atol):
    expected = ms_deform_attn(*make_inputs())
    output = ms_deform_attn(*make_inputs(dtype=dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=atol)


def test_attention_keeps_the_dtype_of_value_and_samples_in_float32():
    value, shapes, starts, locations, weights = make_inputs(dtype=torch.float32)
    output = ms_deform_attn(value.bfloat16(), shapes, starts, locations, weights)
    exact = ms_deform_attn(value.bfloat16().float(), shapes, starts, locations, weights)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16(), rtol=0, atol=0)


def test_attention_is_deterministic():
    value, shapes, starts, locations, weights = make_inputs(queries=300, dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (value, locations, weights)]

    def run():
        output = ms_deform_attn(value, shapes, starts, locations, weights)
        return output, *torch.autograd.grad(output.square().sum(), leaves)

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def wrong(position, change):
    inputs = list(make_inputs())
    inputs[position] = change(inputs[position])
    return inputs


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        (wrong(0, lambda v: v.flatten(2)), r'value must be \(B, N, H, D\), got shape \(2, 49, 12\)'),
        (wrong(0, lambda v: v[:, 1:]), 'hold 49 positions, but value holds 48'),
        (wrong(0, lambda v: v.long()), 'value must be floating point'),
        (wrong(1, lambda s: []), 'one positive'),
        (wrong(1, lambda s: [(7, 5), (12,), (1, 2)]), 'one positive'),
        (wrong(1, lambda s: [(7, 5), (3, 4), (-1, -2)]), 'one positive'),
        (wrong(1, lambda s: torch.tensor(s).float()), r'spatial_shapes must be \(L, 2\) integers, got torch.float32'),
        (wrong(1, lambda s: torch.tensor(s).flatten()), r'spatial_shapes must be \(L, 2\) integers'),
        (wrong(2, lambda s: [0, 30, 47]), r'level_start_index must be \[0, 35, 47\]'),
        (wrong(2, lambda s: torch.tensor([s])), r'level_start_index must be \(L,\) integers'),
        (wrong(3, lambda x: x[:, :, :2]), r'sampling_locations must be \(2, 6, 3, 3, 3, 2\)'),
        (wrong(3, lambda x: x[..., :1]), 'sampling_locations must be'),
        (wrong(3, lambda x: x.to('meta')), 'sampling_locations is on meta, but value is on cpu'),
        (wrong(4, lambda w: w[:, :5]), r'attention_weights must be \(2, 6, 3, 3, 3\)'),
        (wrong(4, lambda w: w.flatten(3)), r'attention_weights must be \(B, Q, H, L, P\)'),
    ],
)
def test_attention_rejects_invalid_input(inputs, message):
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(*inputs)
