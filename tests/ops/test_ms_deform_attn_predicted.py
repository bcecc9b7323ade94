"""Deformable attention from predictions, compared with the formulas of the paper in scalar loops."""

import pytest
import torch

from dinor1.ops import ms_deform_attn, ms_deform_attn_predicted, use_ms_deform_attn_backend
from tests.ops.attention_cases import TOLERANCES, all_cases, differences

SHAPES, STARTS = ((7, 5), (3, 4)), [0, 35]


@pytest.fixture(autouse=True, params=['reference', 'embedding_bag'])
def backend(request):
    with use_ms_deform_attn_backend(request.param):
        yield request.param


def make_inputs(dims, dtype=torch.float64, batch=2, queries=5, heads=3, channels=4, points=2):
    """Value, reference points with ``dims`` coordinates, offsets and logits."""
    generator = torch.Generator().manual_seed(0)

    def rand(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64).to(dtype)

    per_point = (batch, queries, heads, 2, points)
    value, reference = rand(batch, 47, heads, channels) - 0.5, rand(batch, queries, 2, dims)
    return value, reference, 4 * rand(*per_point, 2) - 2, 3 * rand(*per_point)


def from_locations(value, reference, offsets, logits):
    """Compute locations and weights in scalar loops, then apply ``ms_deform_attn``, which has its own tests."""
    locations, weights = torch.zeros_like(offsets), torch.zeros_like(logits)
    batch, queries, heads, levels, points = logits.shape
    for b, q, h in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads))):
        total = logits[b, q, h].exp().sum()
        for level, (height, width) in enumerate(SHAPES):
            for p in range(points):
                weights[b, q, h, level, p] = logits[b, q, h, level, p].exp() / total
                x, y, *size = reference[b, q, level]
                dx, dy = offsets[b, q, h, level, p]
                step_x, step_y = (size[0] / (2 * points), size[1] / (2 * points)) if size else (1 / width, 1 / height)
                locations[b, q, h, level, p, 0] = x + dx * step_x
                locations[b, q, h, level, p, 1] = y + dy * step_y
    return ms_deform_attn(value, SHAPES, STARTS, locations, weights)


@pytest.mark.parametrize('dims', [2, 4])
def test_predicted_equals_the_formulas(dims):
    leaves = [t.requires_grad_() for t in make_inputs(dims)]
    output, expected = ms_deform_attn_predicted(leaves[0], SHAPES, STARTS, *leaves[1:]), from_locations(*leaves)
    # A few dozen products of numbers below 10 in float64.
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
    direction = torch.rand(output.shape, dtype=output.dtype)
    for got, want in zip(*(torch.autograd.grad(o, leaves, direction) for o in (output, expected)), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize('dims', [2, 4])
def test_predicted_passes_gradcheck(dims):
    value, reference, offsets, logits = make_inputs(dims, batch=1, queries=2, heads=2, channels=2)
    leaves = [t.requires_grad_() for t in (value, reference, offsets, logits)]
    # With this seed, no sample has a coordinate within 1e-6 of a pixel centre, where finite differences would be wrong.
    assert torch.autograd.gradcheck(
        lambda v, r, o, w: ms_deform_attn_predicted(v, SHAPES, STARTS, r, o, w), leaves, eps=1e-7, atol=1e-6
    )


@pytest.mark.parametrize('case', all_cases(), ids=lambda case: case.name)
def test_backend_agrees_with_reference_in_double_precision(case, backend):
    for name, difference in differences(case, backend).items():
        assert difference <= TOLERANCES[case.dtype], name


def test_predicted_accepts_half_precision_with_float32_reference_points():
    value, reference, offsets, logits = make_inputs(2, torch.float32)
    halves = [t.bfloat16() for t in (value, offsets, logits)]
    output = ms_deform_attn_predicted(halves[0], SHAPES, STARTS, reference, *halves[1:])
    exact = ms_deform_attn_predicted(halves[0].float(), SHAPES, STARTS, reference, *(t.float() for t in halves[1:]))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize('frozen', [(0,), (1, 2, 3), (0, 2), (1,)])
def test_predicted_gives_no_gradient_to_frozen_inputs(frozen):
    leaves = [t.requires_grad_(i not in frozen) for i, t in enumerate(make_inputs(4))]
    reference = [t.detach().requires_grad_() for t in leaves]
    ms_deform_attn_predicted(leaves[0], SHAPES, STARTS, *leaves[1:]).sum().backward()
    ms_deform_attn_predicted(reference[0], SHAPES, STARTS, *reference[1:]).sum().backward()
    for i, (leaf, full) in enumerate(zip(leaves, reference, strict=True)):
        if i in frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, full.grad, rtol=0, atol=0)


def wrong(position, change):
    inputs = list(make_inputs(2))
    inputs[position] = change(inputs[position])
    return inputs


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        (wrong(0, lambda v: v[:, 1:]), 'hold 47 positions, but value holds 46'),
        (wrong(1, lambda r: r[:, :, 0]), r'reference_points must be \(B, Q, L, 2 or 4\), got shape \(2, 5, 2\)'),
        (wrong(1, lambda r: r[:, :4]), r'reference_points must be \(2, 5, 2, 2\) points or \(2, 5, 2, 4\) boxes'),
        (wrong(1, lambda r: torch.cat((r, r[..., :1]), -1)), r'got \(2, 5, 2, 3\)'),
        (wrong(1, lambda r: r.long()), 'reference_points must be floating point'),
        (wrong(2, lambda o: o[:, :, :2]), r'sampling_offsets must be \(2, 5, 3, 2, 2, 2\)'),
        (wrong(2, lambda o: o.to('meta')), 'sampling_offsets is on meta, but value is on cpu'),
        (wrong(3, lambda w: w.flatten(3)), r'attention_logits must be \(B, Q, H, L, P\)'),
        (wrong(3, lambda w: w[:, 1:]), r'attention_logits must be \(2, 5, 3, 2, 2\)'),
    ],
)
def test_predicted_rejects_invalid_input(inputs, message):
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_predicted(inputs[0], SHAPES, STARTS, *inputs[1:])
