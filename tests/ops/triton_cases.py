"""Tests of the Triton kernels in Triton's interpreter; ``test_triton.py`` runs this file in a separate process.

pytest does not collect this file: the interpreter must be chosen for a whole process, before Triton is imported.
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


# The interpreter is slow. The code for points differs from that for boxes by one line: skip some cases with points.
CASES = [case for case in all_cases() if case.kind != 'points' or not case.special and case.batch and case.queries]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_kernels_agree_with_reference_in_double_precision(case):
    for name, difference in differences(case, 'triton').items():
        assert difference <= TOLERANCES[case.dtype], name


@pytest.mark.parametrize('options', [dict(BLOCK_Q=1, num_warps=1), dict(BLOCK_Q=8, num_warps=4)])
def test_kernels_do_not_depend_on_block_sizes(options, monkeypatch):
    """Blocks of one query, and of eight queries of which the last block is not full."""
    monkeypatch.setattr(triton_launch, 'launch_options', lambda channels, dtype: options)
    case = Case('', 'boxes', torch.float64, PYRAMID[1:], queries=4 if options['BLOCK_Q'] == 1 else 11, heads=1)
    for name, difference in differences(case, 'triton').items():
        assert difference <= 1e-8, name


@pytest.mark.parametrize('needed', [Needed(*flags) for flags in ((1, 0, 0), (0, 1, 0), (0, 0, 1))], ids=str)
@pytest.mark.parametrize('kind', ['given', 'points', 'boxes'])
def test_backward_returns_empty_tensors_for_unneeded_gradients(kind, needed):
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
def test_backward_uses_the_backend_of_the_forward_pass(kind, monkeypatch):
    """The backward pass runs after the block that named the backend, as in training."""
    value, starts, inputs = make_inputs(Case(kind, kind, queries=1, heads=1))
    operator = ms_deform_attn if kind == 'given' else ms_deform_attn_predicted
    with use_ms_deform_attn_backend('triton'):
        output = operator(value.requires_grad_(), Case('').shapes, starts, *inputs)
    monkeypatch.setattr(embedding_bag, 'backward', None)
    output.sum().backward()
    assert value.grad.count_nonzero() > 0


def test_kernels_with_wrong_levels_read_nothing_out_of_bounds():
    """On a GPU the levels are not checked: pixels outside of ``value`` are read as zero."""
    case = Case('wrong levels', batch=1)
    value, _, (locations, weights) = make_inputs(case)
    value = torch.cat((torch.full_like(value, float('nan')), value, torch.full_like(value, float('nan'))))[1:2]
    shapes, starts = torch.tensor([[50, 70], [20, 30]]), torch.tensor([value.shape[1], -5000])
    output = triton_launch.forward(Operands(value, shapes, starts, (locations, weights)))
    assert output.count_nonzero() == 0


def test_kernels_sample_half_precision_in_float32():
    value, starts, inputs = make_inputs(Case('mixed'))
    with use_ms_deform_attn_backend('triton'):
        output = ms_deform_attn(value.half(), Case('').shapes, starts, *inputs)
        exact = ms_deform_attn(value.half().float(), Case('').shapes, starts, *inputs)
    assert output.dtype == torch.float16
    torch.testing.assert_close(output, exact.half(), rtol=0, atol=0)


def test_kernels_reject_too_large_values():
    huge = torch.empty(1, dtype=torch.float16).expand(1, 2**20, 64, 32)
    inputs = (torch.zeros(1, 1, 64, 1, 1, 2), torch.zeros(1, 1, 64, 1, 1))
    with pytest.raises(ValueError, match="the kernels address fewer than 2\\*\\*31; name the backend 'reference'"):
        triton_launch.forward(Operands(huge, torch.tensor([[2**10, 2**10]]), torch.tensor([0]), inputs))


def test_operator_passes_opcheck():
    with use_ms_deform_attn_backend('triton'):
        assert ms_deform_attn_backend('cpu') == 'triton'
        case = Case('', queries=1, heads=1)
        value, starts, inputs = make_inputs(case)
        leaves = [t.requires_grad_() for t in (value, *inputs)]
        levels = (torch.tensor(case.shapes), torch.tensor(starts))
        torch.library.opcheck(ms_deform_attn_op, (leaves[0], *levels, *leaves[1:], False, 'triton'))
