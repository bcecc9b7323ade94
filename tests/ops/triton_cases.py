"""The Triton kernels in Triton's interpreter; ``test_triton.py`` runs this file in a process of its own.

Not collected by itself: the interpreter must be chosen before Triton is imported, for a whole process.
"""

import os

import pytest
import torch

from dinor1.ops import ms_deform_attn, ms_deform_attn_backend, ms_deform_attn_predicted, use_ms_deform_attn_backend
from dinor1.ops.ms_deform_attn import embedding_bag, triton_launch
from dinor1.ops.ms_deform_attn.library import ms_deform_attn_op
from dinor1.ops.ms_deform_attn.sampling import Needed, Operands
from tests.ops.attention_cases import PYRAMID, TOLERANCES, Case, all_cases, differences, make_inputs

assert os.environ.get('TRITON_INTERPRET') == '1'


# The interpreter is slow: around points, which differ from boxes by one line, every precision and odd sizes only.
CASES = [case for case in all_cases() if case.kind != 'points' or not case.special and case.batch and case.queries]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_agrees_with_the_reference_in_double_precision(case):
    for name, difference in differences(case, 'triton').items():
        assert difference <= TOLERANCES[case.dtype], name


@pytest.mark.parametrize('options', [dict(BLOCK_Q=1, num_warps=1), dict(BLOCK_Q=8, num_warps=4)])
def test_block_sizes_change_nothing(options, monkeypatch):
    """Queries that fill no block, one block, and more."""
    monkeypatch.setattr(triton_launch, 'launch_options', lambda channels, dtype: options)
    case = Case('', 'boxes', torch.float64, PYRAMID[1:], queries=4 if options['BLOCK_Q'] == 1 else 11, heads=1)
    for name, difference in differences(case, 'triton').items():
        assert difference <= 1e-8, name


@pytest.mark.parametrize('needed', [Needed(*flags) for flags in ((1, 0, 0), (0, 1, 0), (0, 0, 1))], ids=str)
@pytest.mark.parametrize('kind', ['given', 'points', 'boxes'])
def test_gradients_that_are_not_needed_are_empty(kind, needed):
    case = Case(kind, kind)
    value, starts, inputs = make_inputs(case)
    operands = Operands(value, torch.tensor(case.shapes), torch.tensor(starts), inputs)
    output = triton_launch.forward(operands)
    grad = torch.rand(output.shape)
    everything = triton_launch.backward(grad, operands, output)
    some = triton_launch.backward(grad, operands, output, needed=needed)
    for got, want, wanted in zip(some, everything, needed.per_tensor(kind != 'given'), strict=True):
        if wanted:
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        else:
            assert got.numel() == 0


@pytest.mark.parametrize('kind', ['given', 'boxes'])
def test_the_backward_pass_takes_the_backend_of_the_forward_pass(kind, monkeypatch):
    """Also after the block that named it, which is where a training step calls it."""
    value, starts, inputs = make_inputs(Case(kind, kind, queries=1, heads=1))
    operator = ms_deform_attn if kind == 'given' else ms_deform_attn_predicted
    with use_ms_deform_attn_backend('triton'):
        output = operator(value.requires_grad_(), Case('').shapes, starts, *inputs)
    monkeypatch.setattr(embedding_bag, 'backward', None)
    output.sum().backward()
    assert value.grad.count_nonzero() > 0


def test_wrong_levels_read_nothing_out_of_bounds():
    """On a GPU the levels are not checked: what would lie outside of ``value`` reads as zero."""
    case = Case('wrong levels', batch=1)
    value, _, (locations, weights) = make_inputs(case)
    value = torch.cat((torch.full_like(value, float('nan')), value, torch.full_like(value, float('nan'))))[1:2]
    shapes, starts = torch.tensor([[50, 70], [20, 30]]), torch.tensor([value.shape[1], -5000])
    output = triton_launch.forward(Operands(value, shapes, starts, (locations, weights)))
    assert output.count_nonzero() == 0


def test_mixed_precision_samples_in_single_precision():
    value, starts, inputs = make_inputs(Case('mixed'))
    with use_ms_deform_attn_backend('triton'):
        output = ms_deform_attn(value.half(), Case('').shapes, starts, *inputs)
        exact = ms_deform_attn(value.half().float(), Case('').shapes, starts, *inputs)
    assert output.dtype == torch.float16
    torch.testing.assert_close(output, exact.half(), rtol=0, atol=0)


def test_too_large_a_value_is_refused():
    huge = torch.empty(1, dtype=torch.float16).expand(1, 2**20, 64, 32)
    inputs = (torch.zeros(1, 1, 64, 1, 1, 2), torch.zeros(1, 1, 64, 1, 1))
    with pytest.raises(ValueError, match="the kernels count to 2\\*\\*31; name the backend 'reference'"):
        triton_launch.forward(Operands(huge, torch.tensor([[2**10, 2**10]]), torch.tensor([0]), inputs))


def test_torchs_own_check_of_an_operator():
    with use_ms_deform_attn_backend('triton'):
        assert ms_deform_attn_backend('cpu') == 'triton'
        case = Case('', queries=1, heads=1)
        value, starts, inputs = make_inputs(case)
        leaves = [t.requires_grad_() for t in (value, *inputs)]
        levels = (torch.tensor(case.shapes), torch.tensor(starts))
        torch.library.opcheck(ms_deform_attn_op, (leaves[0], *levels, *leaves[1:], False, 'triton'))
