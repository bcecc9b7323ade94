"""Details of the backend ``embedding_bag``: blocks, the cached canvas, and two ways to sum a gradient."""

import pytest
import torch

from dinor1.ops import ms_deform_attn_predicted, use_ms_deform_attn_backend
from dinor1.ops.ms_deform_attn import embedding_bag
from dinor1.ops.ms_deform_attn.sampling import PredictedSampling
from tests.ops.attention_cases import Case, make_inputs


def operands(**sizes):
    """Value, shapes and start indices of levels, and predictions for boxes, in float64."""
    case = Case('', 'boxes', torch.float64, shapes=((7, 5), (3, 4)), **sizes)
    value, starts, predictions = make_inputs(case)
    return value, list(case.shapes), starts, predictions


@pytest.mark.parametrize(
    'sizes',
    [
        dict(samples=40),
        dict(sorts=True),
        dict(sorts=True, numbers=64),
        dict(sorts=True, sorted_samples=130),
        dict(sorts=True, samples=1, numbers=1),
    ],
    ids=str,
)
def test_embedding_bag_does_not_depend_on_block_sizes(sizes):
    value, shapes, _, predictions = operands(batch=3, queries=60)

    def run(blocks):
        sampling = PredictedSampling(value, shapes, *predictions)
        output = embedding_bag.forward(value, shapes, sampling, blocks)
        grad_value, grads = embedding_bag.backward(output.cos(), value, shapes, sampling, blocks=blocks)
        return output, grad_value, *grads

    default = embedding_bag.default_blocks(value.device)
    for got, expected in zip(run(default._replace(**sizes)), run(default), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_embedding_bag_is_bitwise_equal_for_any_number_of_threads():
    value, shapes, _, predictions = operands(batch=3, queries=60)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            sampling = PredictedSampling(value, shapes, *predictions)
            grad = torch.linspace(-1, 1, 3 * 60 * value[0, 0].numel(), dtype=torch.float64).view(3, 60, -1)
            results.append(embedding_bag.backward(grad, value, shapes, sampling, need_sampling=False)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize('sorts', [False, True])
def test_embedding_bag_sums_few_and_many_samples_to_the_same_gradient(sorts):
    """Few and many samples are sorted differently; further queries without gradient do not change the sum."""
    blocks = embedding_bag.CPU_BLOCKS._replace(sorts=sorts)
    value, shapes, _, predictions = operands(batch=2, queries=5)
    grad = torch.rand(2, 5, value.shape[2] * value.shape[3], dtype=torch.float64)

    def grad_of_value(repeats):
        sampling = PredictedSampling(value, shapes, *(t.repeat_interleave(repeats, 1) for t in predictions))
        sparse = torch.zeros(2, 5, repeats, grad.shape[-1], dtype=grad.dtype)
        sparse[:, :, 0] = grad
        return embedding_bag.backward(sparse.flatten(1, 2), value, shapes, sampling, need_sampling=False, blocks=blocks)

    few, many = grad_of_value(1)[0], grad_of_value(100)[0]
    torch.testing.assert_close(few, many, rtol=0, atol=1e-14)
    assert few.abs().max() > 0.1


def test_embedding_bag_trains_after_inference_mode_and_on_another_default_device():
    """The canvas that the first call caches must not depend on the mode and the default device of that call."""
    # No other test has five heads, so that the canvas is not cached yet.
    value, shapes, starts, predictions = operands(heads=5)
    leaves = [t.requires_grad_() for t in (value, *predictions)]
    with use_ms_deform_attn_backend('embedding_bag'), torch.device('meta'):
        with torch.inference_mode():
            expected = ms_deform_attn_predicted(leaves[0], shapes, starts, *leaves[1:])
        output = ms_deform_attn_predicted(leaves[0], shapes, starts, *leaves[1:])
        output.sum().backward()
    torch.testing.assert_close(output.detach(), expected.clone(), rtol=0, atol=0)
    assert all(leaf.grad.isfinite().all() and leaf.grad.device.type == 'cpu' for leaf in leaves)
