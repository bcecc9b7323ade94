"""The refiner, which mixes prompts along the category graph."""

import pytest
import torch

from dinor1.blocks.category_graph import CategoryGraph, PromptGraphRefiner, build_category_graph
from dinor1.datasets.shapes_world import CATEGORIES


def shapes_graph(**kwargs) -> CategoryGraph:
    return build_category_graph(CATEGORIES, parents='words', **kwargs)


def make_refiner(gate=0.7, **kwargs) -> PromptGraphRefiner:
    torch.manual_seed(0)
    return PromptGraphRefiner(**dict(embed_dim=12, dim=16, num_heads=4, gate_init=gate) | kwargs).double()


def prompts(count=16) -> torch.Tensor:
    return torch.randn(count, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_refiner_closed_gate_is_identity_bitwise(training, dtype):
    refiner = make_refiner(gate=0.0).to(dtype).train(training)
    x = prompts().to(dtype)
    assert torch.equal(refiner(x, shapes_graph()), x)
    # At first only the gate has a gradient.
    refiner(x, shapes_graph()).square().sum().backward()
    with_gradient = {name for name, p in refiner.named_parameters() if p.grad.abs().sum() > 0}
    assert with_gradient == {'gate'}


def test_refiner_open_gate_gives_gradients_to_every_parameter():
    refiner = make_refiner()
    refiner(prompts(), shapes_graph()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in refiner.parameters())


def test_refiner_receptive_field_of_two_layers():
    """Two layers reach only classes of the same fill or shape."""
    refiner, graph = make_refiner().eval(), shapes_graph()
    x = prompts().requires_grad_()
    first = CATEGORIES.index('striped circle')
    refiner(x, graph)[first].sum().backward()
    reached = {CATEGORIES[i] for i in x.grad.abs().sum(1).nonzero().flatten().tolist()}
    # A parent starts as the mean of its children and passes messages on: two steps down and one up.
    assert {name for name in CATEGORIES if set(name.split()) & {'striped', 'circle'}} <= reached
    alone = make_refiner(num_layers=1).eval()
    x.grad = None
    alone(x, graph)[first].sum().backward()
    reached = {CATEGORIES[i] for i in x.grad.abs().sum(1).nonzero().flatten().tolist()}
    assert reached == {name for name in CATEGORIES if set(name.split()) & {'striped', 'circle'}}


def test_refiner_subset_of_classes_equals_hand_built_subgraph():
    """An independent copy of the part of the graph that the classes reach gives the same result."""
    refiner, graph = make_refiner().eval(), shapes_graph()
    keep = torch.tensor([5, 1, 8])  # striped square, striped circle, solid triangle
    x = prompts(3)
    names = [CATEGORIES[i] for i in keep]
    parents = ['solid', 'striped', 'circle', 'square', 'triangle']
    triples = [(name, 'hypernym', word) for name in names for word in name.split()]
    part = build_category_graph(names, triples=triples)
    rows = [graph.names.index(name) for name in part.names]
    assert set(part.names[3:]) == set(parents)
    part = part.with_code(graph.pe[rows])
    torch.testing.assert_close(refiner(x, graph, keep), refiner(x, part), rtol=0, atol=1e-13)


def test_refiner_ignores_order_of_prompts():
    refiner, graph = make_refiner().eval(), shapes_graph()
    order = torch.randperm(16)
    out = refiner(prompts(), graph)
    torch.testing.assert_close(refiner(prompts()[order], graph, order), out[order], rtol=0, atol=1e-13)


def test_refiner_class_outside_graph_is_isolated():
    refiner, graph = make_refiner().eval(), shapes_graph()
    x = prompts(4)
    mixed = refiner(x, graph, torch.tensor([-1, 3, -1, 7]))
    for row in (0, 2):
        torch.testing.assert_close(mixed[[row]], refiner(x[[row]], graph, torch.tensor([-1])), rtol=0, atol=1e-13)
    inside = refiner(x[[1, 3]], graph, torch.tensor([3, 7]))
    torch.testing.assert_close(mixed[[1, 3]], inside, rtol=0, atol=1e-13)
    assert (mixed != x).any(1).all()


@pytest.mark.parametrize('count', [0, 1])
def test_refiner_no_class_and_one_class(count):
    refiner, graph = make_refiner(), shapes_graph()
    out = refiner(prompts(count), graph, torch.arange(count))
    assert out.shape == (count, 12)
    assert out.isfinite().all()
    empty = build_category_graph([str(i) for i in range(count)])
    out = refiner(prompts(count), empty)
    assert out.shape == (count, 12)
    assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in refiner.parameters())


def test_refiner_draws_signs_in_training_only():
    refiner, graph = make_refiner(dropout=0.0), shapes_graph()
    x = prompts()
    assert not torch.equal(refiner(x, graph), refiner(x, graph))
    refiner.eval()
    assert torch.equal(refiner(x, graph), refiner(x, graph))
    without = make_refiner(dropout=0.0, pe_dim=0)
    assert torch.equal(without(x, shapes_graph(pe_dim=0)), without(x, shapes_graph(pe_dim=0)))


def test_refiner_gradcheck():
    refiner, graph = make_refiner(num_layers=1, dim=4, num_heads=1).eval(), shapes_graph()
    x = prompts(3).requires_grad_()
    keep = torch.tensor([1, 5, -1])
    assert torch.autograd.gradcheck(lambda p: refiner(p, graph, keep), [x])


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda r, g: r(prompts(3), g), r'prompts: expected \(16, 12\), got \(3, 12\)'),
        (lambda r, g: r(prompts(2), g, torch.tensor([0])), r'prompts: expected \(1, 12\), got \(2, 12\)'),
        (lambda r, g: r(prompts(), g.with_encoding(3)), 'the graph has 3 columns of code, the refiner pe_dim = 8'),
        (
            lambda r, g: r(prompts(2), build_category_graph(['a', 'b'], triples=[('a', 'is', 'b')])),
            'the graph has 5 relations, the refiner num_edge_types = 4',
        ),
        (lambda r, g: PromptGraphRefiner(num_layers=0), 'num_layers must be at least 1, got 0'),
    ],
)
def test_refiner_bad_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call(make_refiner(), shapes_graph())
