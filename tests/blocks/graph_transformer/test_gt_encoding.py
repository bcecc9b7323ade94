"""Laplacian codes, sign flips, the loss and the accuracy of SBM graphs, and the graphs themselves."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinor1.blocks.graph_transformer import (
    GraphTransformer,
    PatternParameters,
    complete_edges,
    laplacian_positional_encoding,
    make_sbm_cluster,
    make_sbm_pattern,
    random_sign_flip,
    sbm_accuracy,
    weighted_node_cross_entropy,
    weisfeiler_lehman_codes,
)


@pytest.fixture(scope='module')
def oracle(shared_dir):
    with np.load(shared_dir / 'oracles/graph_public.npz') as file:
        return {key.removeprefix('gt_'): torch.from_numpy(file[key]) for key in file if key.startswith('gt_')}


def both_ways(edges) -> torch.Tensor:
    edges = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T
    return torch.cat([edges, edges.flip(0)], 1)


def cycle(num_nodes):
    return both_ways([(i, (i + 1) % num_nodes) for i in range(num_nodes)])


def random_graph(num_nodes=20, p=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    upper = (torch.rand(num_nodes, num_nodes, generator=generator) < p).triu(1)
    return both_ways(upper.nonzero().tolist())


def laplacian(edge_index, num_nodes) -> torch.Tensor:
    """Compute the Laplacian by its definition, entry by entry."""
    edges = {tuple(edge) for edge in edge_index.T.tolist()}
    edges |= {(j, i) for i, j in edges}
    degree = [max(1, sum((i, j) in edges for j in range(num_nodes))) for i in range(num_nodes)]
    rows = [
        [float(i == j) - ((i, j) in edges) / (degree[i] * degree[j]) ** 0.5 for j in range(num_nodes)]
        for i in range(num_nodes)
    ]
    return torch.tensor(rows)


# Laplacian codes -------------------------------------------------------------------------------------------


def test_laplacian_encoding_columns_are_eigenvectors_in_order():
    edge_index = random_graph()
    pe, values = laplacian_positional_encoding(edge_index, 20, 19, return_eigenvalues=True)
    # float32 results.
    torch.testing.assert_close(laplacian(edge_index, 20) @ pe, pe * values, rtol=0, atol=1e-5)
    torch.testing.assert_close(pe.T @ pe, torch.eye(19), rtol=0, atol=1e-5)
    assert (values.diff() >= 0).all()
    assert values[0] > 1e-3
    assert values[-1] <= 2
    # The dropped eigenvector has eigenvalue 0: the square roots of the degrees.
    degree = edge_index[1].bincount(minlength=20).float()
    torch.testing.assert_close(degree.sqrt() @ pe, torch.zeros(19), rtol=0, atol=1e-5)


def test_laplacian_encoding_of_cycle_has_known_eigenvalues():
    values = laplacian_positional_encoding(cycle(7), 7, 6, return_eigenvalues=True)[1]
    expected = sorted(1 - np.cos(2 * np.pi * i / 7) for i in range(1, 7))
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


@pytest.mark.shared
def test_laplacian_encoding_equals_oracle(oracle):
    """Compare eigenvalues, and the spaces that the columns span if these are unique."""
    start = 0
    for graph, size in enumerate(oracle['batch_sizes'].tolist()):
        inside = (oracle['batch_graph_id'] == graph)[oracle['batch_edge_index'][1]]
        pe, values = laplacian_positional_encoding(
            oracle['batch_edge_index'][:, inside] - start, size, 4, return_eigenvalues=True
        )
        expected = oracle['batch_lap_eigenvalues'][graph]
        torch.testing.assert_close(values.double(), expected[1:].double(), rtol=0, atol=1e-6)
        code = oracle['batch_lap_pe'][start : start + size].double()
        # Three columns span a unique space if the fourth eigenvalue differs.
        if expected[4] - expected[3] > 1e-3:
            projector = pe[:, :3].double() @ pe[:, :3].double().T
            torch.testing.assert_close(projector, code @ code.T, rtol=0, atol=1e-5)
        start += size
    assert start == len(oracle['batch_lap_pe'])


def test_laplacian_encoding_ignores_directions_and_repetitions():
    edge_index = random_graph()
    one_way = edge_index[:, edge_index[0] < edge_index[1]]
    pe = laplacian_positional_encoding(edge_index, 20, 4)
    for same in (one_way, one_way.flip(0), torch.cat([edge_index, one_way], 1)):
        other = laplacian_positional_encoding(same, 20, 4)
        torch.testing.assert_close(other @ other.T, pe @ pe.T, rtol=0, atol=1e-5)
    flipped = random_sign_flip(pe)
    torch.testing.assert_close(flipped @ flipped.T, pe @ pe.T, rtol=0, atol=1e-6)


def test_laplacian_encoding_unnormalised():
    edge_index = random_graph()
    pe, values = laplacian_positional_encoding(edge_index, 20, 19, normalized=False, return_eigenvalues=True)
    adjacency = torch.zeros(20, 20)
    adjacency[edge_index[0], edge_index[1]] = 1
    torch.testing.assert_close((adjacency.sum(1).diag() - adjacency) @ pe, pe * values, rtol=0, atol=1e-4)


@pytest.mark.parametrize('num_nodes', [0, 1, 3])
def test_laplacian_encoding_pads_small_graph(num_nodes):
    pe, values = laplacian_positional_encoding(complete_edges(num_nodes), num_nodes, 5, return_eigenvalues=True)
    real = max(0, num_nodes - 1)
    assert pe.shape == (num_nodes, 5)
    assert values.shape == (5,)
    assert (pe[:, real:] == 0).all()
    assert (values[real:] == 0).all()
    torch.testing.assert_close(pe[:, :real].T @ pe[:, :real], torch.eye(real))
    assert laplacian_positional_encoding(complete_edges(num_nodes), num_nodes, 5, pad=False).shape == (num_nodes, real)
    assert laplacian_positional_encoding(complete_edges(num_nodes), num_nodes, 0).shape == (num_nodes, 0)


def test_laplacian_encoding_of_disconnected_graph():
    edge_index = torch.cat([cycle(4), cycle(5) + 4, cycle(3) + 9], 1)
    pe, values = laplacian_positional_encoding(edge_index, 13, 4, return_eigenvalues=True)
    # Three components, the first of which is dropped, and the isolated node 12, whose row of I - A is that of I.
    torch.testing.assert_close(values[:2], torch.zeros(2), rtol=0, atol=1e-6)
    assert values[2] > 0.1
    for part in (slice(0, 4), slice(4, 9), slice(9, 12)):
        torch.testing.assert_close(pe[part, :2], pe[part, :2].mean(0).expand_as(pe[part, :2]), rtol=0, atol=1e-5)
    assert pe.isfinite().all()


def test_laplacian_encoding_negative_k_raises():
    with pytest.raises(ValueError, match='k must not be negative, got -1'):
        laplacian_positional_encoding(cycle(3), 3, -1)


# Weisfeiler-Lehman codes ------------------------------------------------------------------------------------


@pytest.mark.shared
def test_weisfeiler_lehman_codes_equal_release(oracle):
    start, codes = 0, []
    for graph, size in enumerate(oracle['batch_sizes'].tolist()):
        inside = (oracle['batch_graph_id'] == graph)[oracle['batch_edge_index'][1]]
        codes.append(weisfeiler_lehman_codes(oracle['batch_edge_index'][:, inside] - start, size))
        start += size
    assert torch.equal(torch.cat(codes), oracle['wl_pe'])


def test_weisfeiler_lehman_rounds_refine_colours():
    # A path of five: one round separates the ends from the rest, two also separate the middle.
    path = both_ways([(0, 1), (1, 2), (2, 3), (3, 4)])

    def classes(rounds):
        codes = weisfeiler_lehman_codes(path, 5, rounds).tolist()
        return {frozenset(i for i in range(5) if codes[i] == code) for code in codes}

    assert classes(0) == {frozenset(range(5))}
    assert classes(1) == {frozenset({0, 4}), frozenset({1, 2, 3})}
    assert classes(2) == classes(9) == {frozenset({0, 4}), frozenset({1, 3}), frozenset({2})}
    assert weisfeiler_lehman_codes(cycle(4), 4, 5).tolist() == [1] * 4
    assert weisfeiler_lehman_codes(path[:, :0], 0).shape == (0,)


# Sign flips ------------------------------------------------------------------------------------------------


def test_sign_flip_is_one_sign_per_column():
    pe = laplacian_positional_encoding(random_graph(), 20, 6)
    draws = [random_sign_flip(pe, torch.Generator().manual_seed(seed)) for seed in range(20)]
    for flipped in draws:
        signs = (flipped / pe).nan_to_num()[pe.abs().sum(1) > 0]
        assert ((signs == signs[0]) | (signs == 0)).all()
        assert torch.equal(flipped.abs(), pe.abs())
    assert len({tuple(flipped[pe.abs().argmax(0), range(6)].sign().tolist()) for flipped in draws}) > 5
    again = random_sign_flip(pe, torch.Generator().manual_seed(3))
    assert torch.equal(again, draws[3])
    # Applying the same flip twice restores the code.
    assert torch.equal(random_sign_flip(draws[3], torch.Generator().manual_seed(3)), pe)


def test_sign_flip_mean_is_zero():
    pe = torch.ones(1, 50)
    count = 2000
    mean = torch.stack([random_sign_flip(pe) for _ in range(count)]).mean(0)
    # Standard error 1 / sqrt(count) per column; five of them for fifty columns.
    assert mean.abs().max() < 5 / count**0.5
    assert mean.abs().max() > 0


def test_sign_flip_per_graph():
    batch = torch.arange(200).repeat_interleave(2)
    flipped = random_sign_flip(torch.ones(400, 3), batch=batch)
    assert torch.equal(flipped[::2], flipped[1::2])
    # 200 graphs: even chances, at six standard errors.
    assert (flipped[::2].mean(0).abs() < 6 / 200**0.5).all()
    assert random_sign_flip(torch.zeros(0, 3), batch=batch[:0]).shape == (0, 3)


def test_sign_flip_average_of_network_is_invariant():
    net = GraphTransformer(in_dim=2, dim=8, num_layers=2, num_heads=2, pe_dim=3, out_dim=2).double().eval()
    edge_index = random_graph()
    x, pe = torch.randn(20, 2).double(), laplacian_positional_encoding(edge_index, 20, 3).double()

    def average(pe):
        signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))).double()
        return torch.stack([net(x, edge_index, pe=pe * sign) for sign in signs]).mean(0)

    flip = torch.tensor([1.0, -1.0, -1.0]).double()
    torch.testing.assert_close(average(pe * flip), average(pe), rtol=0, atol=1e-14)
    # A single evaluation is not invariant.
    assert (net(x, edge_index, pe=pe * flip) - net(x, edge_index, pe=pe)).abs().max() > 1e-3


# Loss and accuracy -----------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize('suffix', ['', '_no2'])
def test_node_cross_entropy_equals_release(oracle, suffix):
    loss = weighted_node_cross_entropy(oracle['metric_logits'].double(), oracle[f'metric_labels{suffix}'], 4)
    # The release ran in float32.
    torch.testing.assert_close(loss, oracle[f'metric_wce{suffix}'].double(), rtol=1e-6, atol=0)


@pytest.mark.shared
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_loss_and_accuracy_of_released_networks(oracle, mode):
    logits, labels = oracle[f'node_net_{mode}_out'], oracle['node_net_labels']
    loss = weighted_node_cross_entropy(logits.double(), labels, 4)
    torch.testing.assert_close(loss, oracle[f'node_net_{mode}_wce'].double(), rtol=1e-6, atol=0)
    assert sbm_accuracy(logits, labels, 4, 'released') == pytest.approx(oracle[f'node_net_{mode}_acc'].item())


@pytest.mark.shared
@pytest.mark.parametrize(('logits', 'labels'), [('', ''), ('', '_no2'), ('_never2', '_no2')])
def test_sbm_accuracy_equals_release(oracle, logits, labels):
    actual = sbm_accuracy(oracle[f'metric_logits{logits}'], oracle[f'metric_labels{labels}'], 4, 'released')
    assert actual == pytest.approx(oracle[f'metric_acc{labels}{logits}'].item(), rel=1e-6)


@pytest.mark.shared
def test_sbm_accuracy_covers_classes_of_labels(oracle):
    logits, labels = oracle['metric_logits'], oracle['metric_labels']
    assert sbm_accuracy(logits, labels, 4) == pytest.approx(oracle['metric_acc'].item(), rel=1e-6)
    predicted, labels = logits.argmax(1), oracle['metric_labels_no2']
    recalls = [(predicted[labels == c] == c).double().mean().item() for c in (0, 1, 3)]
    assert sbm_accuracy(logits, labels, 4) == pytest.approx(100 * sum(recalls) / 3)
    # An additional class without nodes does not change the result.
    assert sbm_accuracy(F.pad(logits, (0, 1), value=-99), labels, 5) == sbm_accuracy(logits, labels, 4)


def test_loss_and_accuracy_closed_form():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([0, 0, 0, 1])
    # Weights 1/4 for class 0 with three nodes, 3/4 for class 1 with one.
    losses = -logits.log_softmax(1)[range(4), target]
    expected = (losses[:3].sum() * 0.25 + losses[3] * 0.75) / 1.5
    torch.testing.assert_close(weighted_node_cross_entropy(logits, target, 2), expected)
    assert sbm_accuracy(logits, target, 2) == pytest.approx((100 / 3 + 0) / 2)


def test_loss_and_accuracy_edge_cases():
    none = torch.zeros(0, 3, requires_grad=True)
    loss = weighted_node_cross_entropy(none, torch.zeros(0, dtype=torch.long), 3)
    assert loss == 0
    loss.backward()
    assert np.isnan(sbm_accuracy(none, torch.zeros(0, dtype=torch.long), 3))
    # All nodes of one class: its weight is 0.
    some = torch.randn(4, 3, requires_grad=True)
    loss = weighted_node_cross_entropy(some, torch.ones(4, dtype=torch.long), 3)
    loss.backward()
    assert loss == 0
    assert some.grad.isfinite().all()
    with pytest.raises(ValueError, match="mode must be one of present, released; got 'best'"):
        sbm_accuracy(some, torch.ones(4, dtype=torch.long), 3, 'best')


# SBM graphs ------------------------------------------------------------------------------------------------


def dense(graph) -> torch.Tensor:
    adjacency = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.bool)
    adjacency[graph.edge_index[0], graph.edge_index[1]] = True
    return adjacency


@pytest.mark.parametrize('make', [make_sbm_cluster, make_sbm_pattern])
def test_sbm_graphs_are_undirected_without_loops_and_seeded(make):
    graphs = make(5, seed=3)
    assert make(0, seed=3) == []
    for graph in graphs:
        adjacency = dense(graph)
        assert torch.equal(adjacency, adjacency.T)
        assert not adjacency.diagonal().any()
        assert len(graph.edge_index.unique(dim=1).T) == graph.edge_index.shape[1] == adjacency.sum()
    # A graph depends on its index and split, not on the number of graphs.
    again = make(2, seed=3, start=3)
    for graph, same in zip(graphs[3:], again, strict=True):
        assert all(torch.equal(getattr(graph, f), getattr(same, f)) for f in ('x', 'edge_index', 'y'))
    for other in (make(5, seed=4), make(5, seed=3, split=1)):
        assert not all(a.edge_index.shape == b.edge_index.shape for a, b in zip(graphs, other, strict=True))


def test_sbm_cluster_has_published_distribution():
    inside, across, sizes = [], [], []
    for graph in make_sbm_cluster(60, seed=0):
        counts = graph.y.bincount(minlength=6)
        sizes += counts.tolist()
        # One node per community is labelled, with its community's number from 1.
        known = graph.x > 0
        assert sorted(graph.x[known].tolist()) == [1, 2, 3, 4, 5, 6]
        assert torch.equal(graph.x[known], graph.y[known] + 1)
        pairs = torch.triu(torch.ones(graph.num_nodes, graph.num_nodes, dtype=torch.bool), 1)
        same = graph.y[:, None] == graph.y
        adjacency = dense(graph)
        inside.append(adjacency[pairs & same])
        across.append(adjacency[pairs & ~same])
    assert min(sizes) == 5
    assert max(sizes) == 34
    # Uniform in 5..34: mean 19.5, standard deviation 8.7, 360 draws; four standard errors.
    assert abs(np.mean(sizes) - 19.5) < 4 * 8.7 / 360**0.5
    for edges, p in ((torch.cat(inside), 0.55), (torch.cat(across), 0.25)):
        assert abs(edges.double().mean().item() - p) < 4 * (p * (1 - p) / len(edges)) ** 0.5


def test_sbm_nodes_are_shuffled():
    """Communities, labelled nodes and the pattern are not recognisable by their index."""
    for graph in make_sbm_cluster(5, seed=0):
        assert (graph.y.diff() != 0).sum() > graph.num_nodes / 2
    places = torch.cat([(g.x > 0).nonzero().flatten() / g.num_nodes for g in make_sbm_cluster(100, seed=0)])
    # Uniform in [0, 1): standard deviation 0.29 and 600 draws.
    assert abs(places.mean() - 0.5) < 4 * 0.29 / 600**0.5
    for graph in make_sbm_pattern(5, seed=0):
        assert (graph.y.diff() != 0).sum() > graph.y.sum() / 2


def test_sbm_pattern_has_published_distribution():
    shares = {key: [] for key in ('pattern', 'to the pattern', 'else')}
    types, sizes = [], []
    for graph in make_sbm_pattern(60, seed=0, parameters=PatternParameters(num_patterns=None)):
        pairs = torch.triu(torch.ones(graph.num_nodes, graph.num_nodes, dtype=torch.bool), 1)
        planted = (graph.y == 1)[:, None].int() + (graph.y == 1).int()
        adjacency = dense(graph)
        for key, count in (('pattern', 2), ('to the pattern', 1), ('else', 0)):
            shares[key].append(adjacency[pairs & (planted == count)])
        types.append(graph.x)
        sizes.append(int(graph.y.sum()))
    assert min(sizes) >= 5
    assert max(sizes) <= 34
    assert len(set(sizes)) > 15
    counts = torch.cat(types).bincount(minlength=3)
    total = counts.sum().item()
    assert ((counts / total - 1 / 3).abs() < 4 * (2 / 9 / total) ** 0.5).all()
    for key in ('pattern', 'to the pattern'):
        edges = torch.cat(shares[key]).double()
        assert abs(edges.mean().item() - 0.5) < 4 * (0.25 / len(edges)) ** 0.5
    # Between 0.35 across and 0.5 inside five communities.
    assert 0.36 < torch.cat(shares['else']).double().mean() < 0.42


def test_sbm_pattern_communities_have_their_densities():
    parameters = PatternParameters(num_communities=1)
    graph = make_sbm_pattern(1, seed=0, size_min=300, size_max=301, parameters=parameters)[0]
    rest = graph.y == 0
    pairs = dense(graph)[rest][:, rest]
    count = 300 * 299
    assert abs(pairs.sum().item() / count - 0.5) < 4 * (0.25 / (count / 2)) ** 0.5


def test_sbm_pattern_shares_patterns():
    def pattern(graph):
        planted = graph.y == 1
        degrees = dense(graph)[planted][:, planted].sum(1)
        return sorted(zip(graph.x[planted].tolist(), degrees.tolist(), strict=True))

    three, own_each = PatternParameters(num_patterns=3), PatternParameters(num_patterns=None)
    train = make_sbm_pattern(6, seed=1, parameters=three)
    test = make_sbm_pattern(3, seed=1, parameters=three, split=2)
    for i, graph in enumerate(train):
        # Equal up to the order of the nodes, judged by types and degrees.
        assert pattern(graph) == pattern(test[i % 3])
    assert len({tuple(pattern(graph)) for graph in train}) == 3
    assert train[0].num_nodes != train[3].num_nodes
    own = make_sbm_pattern(6, seed=1, parameters=own_each)
    assert len({tuple(pattern(graph)) for graph in own}) == 6


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: make_sbm_cluster(-1, 0), 'num_graphs and seed must not be negative, got -1 and 0'),
        (lambda: make_sbm_cluster(1, 0, 5, 5), 'expected 1 <= size_min < size_max, got 5 and 5'),
        (lambda: make_sbm_pattern(1, 0, 0, 5), 'expected 1 <= size_min < size_max, got 0 and 5'),
        (lambda: PatternParameters(num_patterns=0), 'num_patterns must be positive, or None'),
    ],
)
def test_sbm_bad_sizes_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()
