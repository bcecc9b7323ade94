"""NFE learns the rules that it can express: rules on small grids, with half of one relation's triples held out.

Entities are the cells of a grid with random indices. Maps of the line that close a cycle longer than two do not exist,
except the identity, so a relation must not run in cycles: a random permutation could not be learned.
"""

import dataclasses

import pytest
import torch

from dinor1.blocks.nfe import (
    NFE,
    KnownTails,
    TripleDataset,
    Vocabulary,
    filtered_ranking,
    fit,
    graph_triples,
    predict_missing_edges,
    with_reciprocals,
)


@dataclasses.dataclass
class Cells:
    """A grid of 2a + 1 columns, centred at 0, and b rows; cells have random indices."""

    a: int = 3
    b: int = 7
    seed: int = 0

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(self.seed)
        self.count = (2 * self.a + 1) * self.b
        self.names = torch.randperm(self.count, generator=self.generator).view(2 * self.a + 1, self.b)

    def relation(self, number, move):
        """Triples of a map of (column, row), if it stays within the grid."""
        column, row = torch.meshgrid(torch.arange(-self.a, self.a + 1), torch.arange(self.b), indexing='ij')
        to_column, to_row = move(column, row)
        inside = (to_column.abs() <= self.a) & (to_row >= 0) & (to_row < self.b)
        head = self.names[inside]
        return torch.stack(
            [head, torch.full_like(head, number), self.names[to_column[inside] + self.a, to_row[inside]]], 1
        )

    def halves(self, triples):
        """Split into training triples and held-out ones."""
        order = torch.randperm(len(triples), generator=self.generator)
        return triples[order[::2]], triples[order[1::2]]


def held_out_mrr(kind, cells, learned, held_out, *, num_relations, epochs, lr, seed=0):
    """Train, and rank both ends of the held-out triples among all cells."""
    torch.manual_seed(seed)
    nfe = NFE(cells.count, num_relations, 32, kind, gamma=1.0)
    fit(nfe, learned, epochs=epochs, lr=lr, seed=seed)
    everything = with_reciprocals(torch.cat([learned, held_out]), num_relations)
    known = KnownTails(everything, cells.count, 2 * num_relations)
    return filtered_ranking(nfe.score_all, held_out, known, num_relations=num_relations)['mrr']


def right(column, row):
    return column + 1, row


def up(column, row):
    return column, row + 1


def mirror(column, row):
    return -column, row


@pytest.mark.parametrize('kind', ['nfe-1', 'nfe-2', 'nfe-3', 'nfe-mu'])
def test_nfe_learns_symmetry(kind):
    """The partner of a cell is the mirrored cell; for half of the pairs one direction is held out."""
    cells = Cells(a=5, b=9)
    pairs = cells.relation(0, mirror)
    first = pairs[pairs[:, 0] < pairs[:, 2]]
    backward, held_out = cells.halves(first.flip(1))
    mrr = held_out_mrr(kind, cells, torch.cat([first, backward]), held_out, num_relations=1, epochs=80, lr=0.05)
    assert mrr > 0.95


@pytest.mark.parametrize('kind', ['nfe-1', 'nfe-2', 'nfe-mu'])
def test_nfe_learns_inversion(kind):
    """All triples of right and half of left are known."""
    cells = Cells()
    learned, held_out = cells.halves(cells.relation(1, lambda column, row: (column - 1, row)))
    learned = torch.cat([cells.relation(0, right), learned, cells.relation(2, up)])
    assert held_out_mrr(kind, cells, learned, held_out, num_relations=3, epochs=100, lr=0.05) > 0.95


@pytest.mark.parametrize('kind', ['nfe-1', 'nfe-2', 'nfe-mu'])
def test_nfe_learns_composition(kind):
    """All triples of right and up, and half of up after right, are known."""
    cells = Cells()
    learned, held_out = cells.halves(cells.relation(2, lambda column, row: (column + 1, row + 1)))
    learned = torch.cat([cells.relation(0, right), cells.relation(1, up), learned])
    assert held_out_mrr(kind, cells, learned, held_out, num_relations=3, epochs=100, lr=0.05) > 0.95


@pytest.mark.parametrize(('kind', 'low', 'high'), [('nfe-1', 0.95, 1), ('nfe-mu', 0.95, 1), ('transe', 0, 0.5)])
def test_nfe_learns_noncommutative_composition(kind, low, high):
    """Mirror after right and right after mirror are different relations. TransE adds vectors, in any order."""
    cells = Cells(a=5, b=4)
    orders = [
        cells.halves(cells.relation(3, lambda column, row: (-(column + 1), row))),
        cells.halves(cells.relation(4, lambda column, row: (-column + 1, row))),
    ]
    learned = [
        cells.relation(0, right),
        cells.relation(1, mirror),
        cells.relation(2, up),
        *(half for half, _ in orders),
    ]
    held_out = torch.cat([half for _, half in orders])
    mrr = held_out_mrr(kind, cells, torch.cat(learned), held_out, num_relations=5, epochs=150, lr=0.03)
    assert low < mrr <= high


# Graph completion ----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Graph:
    names: list
    relations: list
    edge_index: torch.Tensor
    edge_type: torch.Tensor
    edge_weight: torch.Tensor


def grid_graph():
    cells = Cells()
    learned, held_out = cells.halves(cells.relation(2, lambda column, row: (column + 1, row + 1)))
    learned = torch.cat([cells.relation(0, right), cells.relation(1, up), learned])
    head, relation, tail = learned.unbind(1)
    names = [f'cell {i}' for i in range(cells.count)]
    graph = Graph(names, ['right', 'up', 'diagonal'], torch.stack([head, tail]), relation, torch.ones(len(head)))
    return graph, held_out


def test_predict_missing_edges_finds_held_out_edges():
    graph, held_out = grid_graph()
    torch.manual_seed(0)
    nfe = NFE(len(graph.names), len(graph.relations), 32)
    fit(nfe, graph_triples(graph), epochs=100, lr=0.05)
    # Held-out edges were negatives in training, so a probability below 0.5 is expected.
    full = predict_missing_edges(nfe, graph, 'diagonal', topk=3, min_prob=0.2)

    before = len(graph.edge_type)
    assert torch.equal(full.edge_index[:, :before], graph.edge_index)
    assert torch.equal(full.edge_weight[:before], graph.edge_weight)
    new = graph_triples(full)[before:]
    assert (new[:, 1] == 2).all()
    found = set(map(tuple, new.tolist()))
    assert len(found) == len(new)
    assert not found & set(map(tuple, graph_triples(graph).tolist()))
    assert (new[:, 0] != new[:, 2]).all()
    probability = nfe.score(*new.unbind(1)).sigmoid()
    torch.testing.assert_close(full.edge_weight[before:], probability.detach(), rtol=1e-4, atol=1e-5)
    assert (full.edge_weight[before:] >= 0.2).all()
    # Most held-out edges are found, and most found edges were held out.
    wanted = set(map(tuple, held_out.tolist()))
    assert len(found & wanted) > 0.8 * max(len(wanted), len(found))


def test_predict_missing_edges_limits():
    graph, _ = grid_graph()
    nfe = NFE(len(graph.names), 3, 8)
    before = len(graph.edge_type)
    assert len(predict_missing_edges(nfe, graph, 'up', min_prob=1.0).edge_type) == before
    for batch_size in (512, 5):
        dense = predict_missing_edges(nfe, graph, 'up', topk=1000, min_prob=0.0, batch_size=batch_size)
        # Without a threshold: every pair of two cells that was not an edge.
        own = int((graph.edge_type == 1).sum())
        assert len(dense.edge_type) - before == 49 * 48 - own
    top = predict_missing_edges(nfe, graph, 'up', topk=2, min_prob=0.0)
    assert torch.equal(top.edge_index[0, before:].bincount(), torch.full((49,), 2))


def test_predict_missing_edges_bad_arguments_raise():
    graph, _ = grid_graph()
    nfe = NFE(len(graph.names), 3, 8)
    with pytest.raises(ValueError, match="unknown relation 'down'; the graph has right, up, diagonal"):
        predict_missing_edges(nfe, graph, 'down')
    with pytest.raises(ValueError, match='topk must be at least 1'):
        predict_missing_edges(nfe, graph, 'up', topk=0)
    with pytest.raises(ValueError, match='the model has 7 entities and 3 relations, the graph 49 and 3'):
        predict_missing_edges(NFE(7, 3, 8), graph, 'up')


# Training --------------------------------------------------------------------------------------------------


def test_fit_is_reproducible_and_learns():
    cells = Cells()
    triples = cells.relation(0, right)

    def run(seed):
        torch.manual_seed(0)
        nfe = NFE(cells.count, 1, 8)
        seen = []
        losses = fit(nfe, triples, epochs=5, lr=0.05, decay=0.9, seed=seed, on_epoch=lambda *args: seen.append(args))
        assert seen == list(enumerate(losses, 1))
        return nfe.entity.detach(), losses

    # The same seed gives the same tables.
    (first, losses), (again, _), (other, _) = run(0), run(0), run(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match='triples is empty'):
        fit(NFE(3, 1, 2), triples[:0], epochs=1, lr=0.1)


def test_vocabulary_serves_as_names_of_graph():
    graph, _ = grid_graph()
    named = dataclasses.replace(graph, names=Vocabulary(graph.names), relations=Vocabulary(graph.relations, 'relation'))
    nfe = NFE(len(graph.names), 3, 8)
    assert torch.equal(
        predict_missing_edges(nfe, named, 'up').edge_index, predict_missing_edges(nfe, graph, 'up').edge_index
    )


# A real graph ----------------------------------------------------------------------------------------------


def frequent_part(data, count):
    """Triples among the most frequent entities of train, renumbered."""
    frequency = data.train[:, [0, 2]].flatten().bincount(minlength=len(data.entities))
    # Stable sort: entities are in the order of names, which breaks ties.
    chosen = frequency.argsort(descending=True, stable=True)[:count]
    number = torch.full((len(data.entities),), -1)
    number[chosen] = torch.arange(count)
    parts = []
    for triples in (data.train, data.valid, data.test):
        renumbered = torch.stack([number[triples[:, 0]], triples[:, 1], number[triples[:, 2]]], 1)
        parts.append(renumbered[(renumbered >= 0).all(1)])
    return parts


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize('kind', ['nfe-1', 'transe'])
def test_nfe_learns_small_wn18rr(shared_dir, kind):
    """With the 2,000 most frequent entities NFE-1 learns the symmetric relations; TransE cannot."""
    data = TripleDataset.read(shared_dir / 'data/wn18rr')
    train, valid, test = frequent_part(data, 2_000)
    assert [len(part) for part in (train, valid, test)] == [3_120, 73, 74]
    torch.manual_seed(0)
    nfe = NFE(2_000, 11, 64, kind, gamma=1.0, init_bound=0.5)
    fit(nfe, train, epochs=15, lr=0.1, batch_size=256, decay=0.8)
    known = KnownTails(with_reciprocals(torch.cat([train, valid, test]), 11), 2_000, 22)
    result = filtered_ranking(nfe.score_all, test, known, num_relations=11)
    if kind == 'transe':
        assert result['hits@1'] <= 0.05
    else:
        assert result['mrr'] >= 0.58
