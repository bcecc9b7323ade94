"""Deformable attention from predictions: against the formulas of the paper written out, and against MMCV's module."""

import pytest
import torch

from dinor1.ops import ms_deform_attn, ms_deform_attn_predicted, use_ms_deform_attn_backend
from tests.ops.attention_cases import TOLERANCES, all_cases, differences

SHAPES, STARTS = ((7, 5), (3, 4)), [0, 35]


@pytest.fixture(autouse=True, params=['definition', 'bags'])
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


def written_out(value, reference, offsets, logits):
    """Locations and weights number by number, then the operator that has tests of its own."""
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
def test_equals_the_formulas_written_out(dims):
    leaves = [t.requires_grad_() for t in make_inputs(dims)]
    output, expected = ms_deform_attn_predicted(leaves[0], SHAPES, STARTS, *leaves[1:]), written_out(*leaves)
    # A few dozen products of numbers below 10 in float64.
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
    direction = torch.rand(output.shape, dtype=output.dtype)
    for got, want in zip(*(torch.autograd.grad(o, leaves, direction) for o in (output, expected)), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize('dims', [2, 4])
def test_gradcheck(dims):
    value, reference, offsets, logits = make_inputs(dims, batch=1, queries=2, heads=2, channels=2)
    leaves = [t.requires_grad_() for t in (value, reference, offsets, logits)]
    # No sample of this seed lies within 1e-6 of a pixel centre's line, where finite differences would be wrong.
    assert torch.autograd.gradcheck(
        lambda v, r, o, w: ms_deform_attn_predicted(v, SHAPES, STARTS, r, o, w), leaves, eps=1e-7, atol=1e-6
    )


@pytest.mark.parametrize('case', all_cases(), ids=lambda case: case.name)
def test_agrees_with_the_definition_in_double_precision(case, backend):
    for name, difference in differences(case, backend).items():
        assert difference <= TOLERANCES[case.dtype], name


def test_half_precision_predictions_beside_single_precision_reference_points():
    value, reference, offsets, logits = make_inputs(2, torch.float32)
    halves = [t.bfloat16() for t in (value, offsets, logits)]
    output = ms_deform_attn_predicted(halves[0], SHAPES, STARTS, reference, *halves[1:])
    exact = ms_deform_attn_predicted(halves[0].float(), SHAPES, STARTS, reference, *(t.float() for t in halves[1:]))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact.bfloat16(), rtol=0, atol=0)


def test_blocks_of_queries_and_images_do_not_show(monkeypatch, backend):
    """The same numbers whatever fits into a block."""
    from dinor1.ops.ms_deform_attn import embedding_bag as msda_bags

    inputs = [t.requires_grad_() for t in make_inputs(4, batch=3, queries=9)]

    def run():
        output = ms_deform_attn_predicted(inputs[0], SHAPES, STARTS, *inputs[1:])
        return output, *torch.autograd.grad(output.square().sum(), inputs)

    expected = run()
    blocks = msda_bags._CPU_BLOCKS
    for holder, name, size in ((blocks, 'samples', 40), (blocks, 'numbers', 64), (msda_bags, '_SORTED_SAMPLES', 130)):
        monkeypatch.setattr(holder, name, size)
        for got, want in zip(run(), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


def test_trains_after_inference_mode_and_under_another_default_device():
    """What the first call of a size keeps for the next ones has nothing of the circumstances of that call."""
    from dinor1.ops.ms_deform_attn import embedding_bag as msda_bags

    msda_bags._cached_canvas.cache_clear()
    leaves = [t.requires_grad_() for t in make_inputs(4)]
    with torch.inference_mode(), torch.device('meta'):
        expected = ms_deform_attn_predicted(leaves[0], SHAPES, STARTS, *leaves[1:])
    with torch.device('meta'):
        output = ms_deform_attn_predicted(leaves[0], SHAPES, STARTS, *leaves[1:])
        output.sum().backward()
    torch.testing.assert_close(output.detach(), expected.clone(), rtol=0, atol=0)
    assert all(leaf.grad.isfinite().all() and leaf.grad.device.type == 'cpu' for leaf in leaves)


def test_few_and_many_samples_sum_the_same_gradient(monkeypatch):
    """A gradient of value is summed in one of two ways; both, on the same samples."""
    from dinor1.ops.ms_deform_attn import embedding_bag as msda_bags
    from dinor1.ops.ms_deform_attn.sampling import PredictedSampling

    value, *predictions = make_inputs(2)
    grad = torch.rand(2, 5, 12, dtype=torch.float64)
    results = []
    for ways in ((msda_bags._sum_all_rows,) * 2, (msda_bags._sum_touched_rows,) * 2):
        monkeypatch.setattr(msda_bags, '_sum_all_rows', ways[0])
        monkeypatch.setattr(msda_bags, '_sum_touched_rows', ways[1])
        sampling = PredictedSampling(value, list(SHAPES), *predictions)
        results.append(msda_bags.backward(grad, value, list(SHAPES), sampling, need_sampling=False)[0])
        monkeypatch.undo()
    torch.testing.assert_close(*results, rtol=0, atol=1e-14)
    assert results[0].abs().max() > 0.1


@pytest.mark.parametrize('frozen', [(0,), (1, 2, 3), (0, 2), (1,)])
def test_inputs_that_need_no_gradient_get_none(frozen):
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
def test_bad_input_is_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_predicted(inputs[0], SHAPES, STARTS, *inputs[1:])
