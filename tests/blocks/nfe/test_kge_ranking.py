"""Filtered ranking compared with published numbers and with a loop over triples."""

import numpy as np
import pytest
import torch

from dinor1.blocks.nfe import KnownTails, filtered_ranking, filtered_ranks, ranking_metrics, with_reciprocals

N, R = 12, 3


def problem(seed=0, ties=True):
    """Test triples, their filter, and a table of scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    triples = torch.stack([torch.randint(size, (70,), generator=generator) for size in (N, R, N)], 1)
    table = torch.randn(N, 2 * R, N, generator=generator, dtype=torch.float64)
    if ties:
        table = table.round()
    return triples[:20], triples, table


def known_tails(triples):
    return KnownTails(with_reciprocals(triples, R), N, 2 * R)


def loop(table, test, everything, both, ties):
    """Ranks by the definition, one triple and one entity at a time."""
    truth = set(map(tuple, everything.tolist()))
    truth |= {(t, r + R, h) for h, r, t in truth}
    ranks = []
    for h, r, t in test.tolist():
        for head, relation, tail in [(h, r, t), (t, r + R, h)][: 1 + both]:
            scores = table[head, relation].tolist()
            rivals = [s for e, s in enumerate(scores) if e != tail and (head, relation, e) not in truth]
            above = sum(s > scores[tail] for s in rivals)
            level = sum(s == scores[tail] for s in rivals)
            ranks.append(1 + above + {'pessimistic': level, 'optimistic': 0, 'mean': level / 2}[ties])
    return ranks


@pytest.mark.parametrize('ties', ['pessimistic', 'optimistic', 'mean'])
@pytest.mark.parametrize('both', [True, False])
@pytest.mark.parametrize('seed', range(3))
def test_filtered_ranking_equals_loop_over_triples(ties, both, seed):
    test, everything, table = problem(seed)
    result = filtered_ranking(
        lambda h, r: table[h, r],
        test,
        known_tails(everything),
        num_relations=R,
        both_directions=both,
        ties=ties,
        batch_size=7,
    )
    ranks = np.array(loop(table, test, everything, both, ties))
    assert result.pop('ranks').tolist() == ranks.tolist()
    expected = {'mr': ranks.mean(), 'mrr': (1 / ranks).mean()} | {f'hits@{k}': (ranks <= k).mean() for k in (1, 3, 10)}
    assert result == pytest.approx(expected)
    # Otherwise the policy for ties would not matter.
    if ties == 'pessimistic':
        assert ranks.tolist() != loop(table, test, everything, both, 'optimistic')


@pytest.mark.shared
def test_filtered_ranking_equals_release(shared_dir):
    with np.load(shared_dir / 'oracles/graph_public.npz') as file:
        oracle = {key.removeprefix('kge_rank_'): torch.from_numpy(file[key]) for key in file if 'kge_rank_' in key}
    triples = torch.cat([oracle['train'], oracle['valid'], oracle['test']])
    assert torch.equal(with_reciprocals(oracle['test'], R), oracle['queries'])
    result = filtered_ranking(
        lambda h, r: oracle['scores'][h, r], oracle['test'], known_tails(triples), num_relations=R
    )
    assert torch.equal(result['ranks'], oracle['ranks'])
    for ours, theirs in (('mr', 'mr'), ('mrr', 'mrr'), ('hits@1', 'hit1'), ('hits@3', 'hit3'), ('hits@10', 'hit10')):
        assert result[ours] == pytest.approx(oracle[theirs].item(), rel=1e-12)


def test_filtered_ranking_ignores_batch_size():
    test, everything, table = problem()
    seen = []

    def score_all(h, r):
        seen.append(len(h))
        return table[h, r]

    def ranks(**kwargs):
        seen.clear()
        return filtered_ranking(score_all, test, known_tails(everything), num_relations=R, **kwargs)['ranks'].tolist()

    expected = ranks()
    assert seen == [40]
    # Smaller batches give the same ranks.
    for kwargs, largest in ((dict(batch_size=3), 3), (dict(max_scores=5 * N + 1), 5), (dict(max_scores=1), 1)):
        assert ranks(**kwargs) == expected
        assert max(seen) == largest
        assert sum(seen) == 40


def test_filtered_ranks_keeps_scores_and_accepts_very_negative_ones():
    """The release overwrites known tails with -1e8, which ranks above lower scores."""
    test, everything, table = problem(ties=False)
    low = table - 3e8
    before = low.clone()
    known = known_tails(everything)
    result = filtered_ranking(lambda h, r: low[h, r], test, known, num_relations=R)
    assert torch.equal(low, before)
    assert result['ranks'].tolist() == loop(low, test, everything, True, 'pessimistic')


def test_filtered_ranks_of_constant_scores_follow_ties():
    scores, tails = torch.zeros(1, 9), torch.tensor([4])
    rows, known = torch.tensor([0, 0]), torch.tensor([3, 4])
    ranks = [
        filtered_ranks(scores, tails, rows, known, ties=ties).item() for ties in ('pessimistic', 'optimistic', 'mean')
    ]
    # Nine entities without one known tail; the target is known too and counts once.
    assert ranks == [8, 1, 4.5]


def test_filtered_ranks_unknown_tail_is_ranked():
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    nothing = torch.empty(0, dtype=torch.long)
    assert filtered_ranks(scores, torch.tensor([2]), nothing, nothing).tolist() == [2]


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('column', [0, 4])
def test_filtered_ranks_nonfinite_scores_raise(bad, column):
    scores = torch.zeros(2, 9)
    scores[1, column] = bad
    nothing = torch.empty(0, dtype=torch.long)
    with pytest.raises(ValueError, match='scores must be finite'):
        filtered_ranks(scores, torch.tensor([4, 4]), nothing, nothing)


def test_filtered_ranking_bad_arguments_raise():
    test, everything, table = problem()
    with pytest.raises(ValueError, match="ties must be one of pessimistic, optimistic, mean; got 'best'"):
        filtered_ranking(lambda h, r: table[h, r], test, known_tails(everything), num_relations=R, ties='best')
    one_way = KnownTails(everything, known_tails(everything).num_entities, R)
    with pytest.raises(ValueError, match='add reciprocals'):
        filtered_ranking(lambda h, r: table[h, r], test, one_way, num_relations=R)
    with pytest.raises(ValueError, match='triples is empty'):
        filtered_ranking(lambda h, r: table[h, r], test[:0], known_tails(everything), num_relations=R)


def test_ranking_metrics_closed_form():
    metrics = ranking_metrics(torch.tensor([1, 2, 4, 20]))
    assert metrics == pytest.approx({'mr': 6.75, 'mrr': 0.45, 'hits@1': 0.25, 'hits@3': 0.5, 'hits@10': 0.75})
