"""The operators in torch.compile, torch.export and FLOP counters."""

import pytest
import torch

from dinor1.ops import ms_deform_attn, ms_deform_attn_predicted, register_flops, use_ms_deform_attn_backend
from dinor1.ops.ms_deform_attn.backends import VARIABLE
from dinor1.ops.ms_deform_attn.library import ms_deform_attn_op, ms_deform_attn_predicted_op
from tests.ops.attention_cases import Case, make_inputs

OPERATORS = {
    'given': (ms_deform_attn, ms_deform_attn_op),
    'boxes': (ms_deform_attn_predicted, ms_deform_attn_predicted_op),
}


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def arguments(kind, **sizes):
    case = Case(kind, kind, **sizes)
    value, starts, inputs = make_inputs(case)
    return [value, torch.tensor(case.shapes), torch.tensor(starts), *inputs]


@pytest.mark.parametrize('kind', OPERATORS)
def test_operator_passes_opcheck(kind):
    """Schema, autograd registration, fake kernel, and tracing with dynamic shapes."""
    value, *levels_and_inputs = arguments(kind)
    leaves = [t.requires_grad_() for t in (value, *levels_and_inputs[2:])]
    torch.library.opcheck(OPERATORS[kind][1], (leaves[0], *levels_and_inputs[:2], *leaves[1:], False, 'auto'))


@pytest.mark.parametrize('as_numbers', [False, True])
@pytest.mark.parametrize('kind', OPERATORS)
def test_operator_compiles_to_one_graph(kind, as_numbers):
    function = OPERATORS[kind][0]
    value, shapes, starts, *inputs = arguments(kind)
    if as_numbers:
        shapes, starts = shapes.tolist(), starts.tolist()
    # Compile with a backend that records the graphs.
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    # Compare output and gradients with eager mode.
    leaves = [t.requires_grad_() for t in (value, *inputs)]
    with use_ms_deform_attn_backend('embedding_bag'):
        output, expected = (
            compiled(leaves[0], shapes, starts, *leaves[1:]),
            function(leaves[0], shapes, starts, *leaves[1:]),
        )
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    for got, want in zip(*(torch.autograd.grad(o.sum(), leaves) for o in (output, expected)), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    # Check that the graph contains one operator.
    called = [str(node.target) for node in graphs[0].graph.nodes if 'dinor1' in str(node.target)]
    assert len(graphs) == 1
    assert called == [f'dinor1.{function.__name__}.default']


@pytest.mark.parametrize('kind', OPERATORS)
def test_operator_compiled_equals_eager(kind):
    """The backward pass is traced too, and the same graph serves another number of queries."""
    torch.compiler.reset()
    compiled = torch.compile(OPERATORS[kind][0], fullgraph=True, backend='aot_eager', dynamic=True)
    for queries in (3, 5):
        value, shapes, starts, *inputs = arguments(kind, queries=queries)
        leaves = [t.requires_grad_() for t in (value, *inputs)]
        got = compiled(leaves[0], shapes, starts, *leaves[1:])
        expected = OPERATORS[kind][0](leaves[0], shapes, starts, *leaves[1:])
        # Eager mode uses the backend 'reference' for so few samples: equal up to rounding.
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
        for mine, want in zip(*(torch.autograd.grad(o.sum(), leaves) for o in (got, expected)), strict=True):
            torch.testing.assert_close(mine, want, rtol=1e-5, atol=1e-5)


def test_export_contains_one_operator():
    class Attention(torch.nn.Module):
        def forward(self, *tensors):
            return ms_deform_attn(*tensors)

    tensors = arguments('given')
    program = torch.export.export(Attention(), tuple(tensors))
    calls = [node.target for node in program.graph.nodes if node.op == 'call_function']
    assert calls == [torch.ops.dinor1.ms_deform_attn.default]
    torch.testing.assert_close(program.module()(*tensors), ms_deform_attn(*tensors), rtol=0, atol=1e-6)


def test_compiled_graph_checks_levels_when_it_runs():
    compiled = torch.compile(ms_deform_attn, fullgraph=True, backend='eager')
    tensors = arguments('given')
    tensors[2] = tensors[2] + 1
    with pytest.raises(ValueError, match='level_start_index must be'):
        compiled(*tensors)


def test_flop_counter_counts_four_corners_per_sample_and_channel():
    from torch.utils.flop_counter import FlopCounterMode

    for _ in range(2):
        register_flops()
    value, shapes, starts = torch.randn(2, 6, 4, 8), torch.tensor([[2, 3]]), torch.tensor([0])
    offsets, weights = torch.rand(2, 5, 4, 1, 3, 2), torch.rand(2, 5, 4, 1, 3)
    calls = [
        lambda: ms_deform_attn(value, shapes, starts, offsets, weights),
        lambda: ms_deform_attn_predicted(value, shapes, starts, torch.rand(2, 5, 1, 2), offsets, weights),
    ]
    for call in calls:
        with use_ms_deform_attn_backend('embedding_bag'), FlopCounterMode(display=False) as counter:
            call()
        # 2 images, 5 queries, 4 heads, 3 points, 8 channels: 4 corners with a product and a sum each.
        assert counter.get_total_flops() == 2 * 4 * (2 * 5 * 4 * 3 * 8)
