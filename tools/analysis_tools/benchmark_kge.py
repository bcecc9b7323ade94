#!/usr/bin/env python
"""Time filtered ranking and the loss of NFE against simple implementations.

Ranking, on test triples of a data set and a model with random parameters:
  plain loop   for each query, compute the score of every entity by the formula, and look up known tails in a dict
  lean loop    the same, but the part of the score that depends on entities is computed once: one matrix-vector product
               per query
Loss, on one training batch, forward and backward:
  dense        all scores of the batch in one array, differentiated by autograd

Examples:
    python tools/analysis_tools/benchmark_kge.py
    python tools/analysis_tools/benchmark_kge.py --data-root data/wn18rr --kind nfe-2 --dim 200 --out bench.json
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from dinor1.cli.exit_status import run_command


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data-root', help='folder of train.txt, valid.txt and test.txt (default: wn18rr in $DINOR1_DATA or data)'
    )
    parser.add_argument('--kind', default='nfe-1', help='see dinor1.blocks.nfe.KINDS (default: nfe-1)')
    parser.add_argument('--dim', type=int, default=100, help='dimension of the embeddings (default: 100)')
    parser.add_argument('--triples', type=int, default=100, help='test triples to rank (default: 100)')
    parser.add_argument('--batch', type=int, default=128, help='triples of the loss (default: 128)')
    parser.add_argument(
        '--repeat', type=int, default=3, help='number of runs, of which the fastest counts (default: 3)'
    )
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument('--out', metavar='FILE.json', help='also write the numbers to a file')
    return parser.parse_args()


def fastest(function: Callable, repeat: int, device: str) -> tuple[float, object]:
    """Seconds of the fastest run, and the result of the last run."""
    from dinor1.benchmarks.timing import take_turns

    results: list = []
    measured = take_turns({'function': lambda: results.append(function())}, repeat, device, warmup=0)
    return min(measured['function'].times), results[-1]


def rank_one_by_one(score: Callable, queries, known: dict) -> list[int]:
    """Compute ranks by the definition; ``score(head, relation)`` returns the scores (N,) of all tails."""
    ranks = []
    for head, relation, tail in queries.tolist():
        scores = score(head, relation)
        # Leave out all known tails; ties count against the searched one.
        target = scores[tail].clone()
        scores[known[head, relation]] = -float('inf')
        ranks.append(1 + int((scores >= target).sum()))
    return ranks


def main() -> None:
    args = parse_args()

    import torch

    from dinor1.blocks.nfe import KINDS, NFE, TripleDataset, filtered_ranking, with_reciprocals
    from dinor1.blocks.nfe.losses import softplus
    from dinor1.cli.options import require_at_least
    from dinor1.utils.devices import as_device
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output, write_json

    # Check the options.
    require_at_least(1, args, 'dim', 'triples', 'batch', 'repeat')
    if args.kind not in KINDS:
        raise InputError(f'--kind {args.kind}: unknown; give one of {", ".join(KINDS)}')
    as_device(args.device, '--device')
    if args.out:
        check_output(args.out, '--out')
    # Read the data, and make model and queries.
    data = TripleDataset.read(args.data_root or Path(os.environ.get('DINOR1_DATA', 'data')) / 'wn18rr')
    num_relations = len(data.relations)
    torch.manual_seed(0)
    nfe = NFE(len(data.entities), num_relations, args.dim, args.kind).to(args.device)
    filters = data.filter().to(args.device)
    chosen = torch.randperm(len(data.test))[: args.triples]
    test = data.test[chosen].to(args.device)
    queries = with_reciprocals(test, num_relations)
    known: dict = {}
    for head, relation, tail in with_reciprocals(
        torch.cat([data.train, data.valid, data.test]), num_relations
    ).tolist():
        known.setdefault((head, relation), []).append(tail)

    def plain(head: int, relation: int):
        return nfe.flow.score(nfe.entity[head], nfe.relation[relation], nfe.entity, nfe.gamma)

    # Time the ranking.
    seconds, ranks = {}, {}
    with torch.no_grad():
        key = nfe.flow.key(nfe.entity)

        def lean(head: int, relation: int):
            query = nfe.flow.query(nfe.entity[head], nfe.relation[relation], nfe.gamma)
            return key.vector @ query.vector + key.bias + query.bias

        for name, score in (('plain loop', plain), ('lean loop', lean)):
            seconds[name], ranks[name] = fastest(
                lambda s=score: rank_one_by_one(s, queries, known), args.repeat, args.device
            )
        seconds['ours'], result = fastest(
            lambda: filtered_ranking(nfe.score_all, test, filters, num_relations=num_relations),
            args.repeat,
            args.device,
        )
    ours = result['ranks'].tolist()

    # Time the loss.
    batch = with_reciprocals(data.train, num_relations)[: args.batch].to(args.device).unbind(1)

    def dense() -> float:
        scores = nfe.score_all(*batch[:2])
        target = scores.gather(1, batch[2][:, None]).sum()
        loss = (softplus(scores).sum() - target) / len(scores)
        nfe.zero_grad()
        loss.backward()
        return loss.item()

    def pieces() -> float:
        loss = nfe.loss(*batch)
        nfe.zero_grad()
        loss.backward()
        return loss.item()

    (dense_s, dense_loss), (pieces_s, pieces_loss) = (fastest(f, args.repeat, args.device) for f in (dense, pieces))
    # Record and report.
    record = dict(
        command=' '.join(sys.argv),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        entities=len(data.entities),
        ranking=dict(
            queries=len(queries),
            seconds=seconds,
            times_faster={name: seconds[name] / seconds['ours'] for name in ranks},
            # A different order of summation can change the order of nearly equal scores.
            ranks_that_differ={name: sum(a != b for a, b in zip(ours, r, strict=True)) for name, r in ranks.items()},
        ),
        loss=dict(
            triples=args.batch,
            seconds=dict(dense=dense_s, ours=pieces_s),
            times_faster=dense_s / pieces_s,
            relative_difference=abs(dense_loss - pieces_loss) / abs(dense_loss),
        ),
    )
    print(f'{len(queries)} queries, {record["entities"]} entities, {args.kind}, d = {args.dim}')
    for name, value in seconds.items():
        ratio = f'{value / seconds["ours"]:8.1f} x' if name != 'ours' else ''
        print(f'  ranking, {name:<11}{value / len(queries) * 1e3:9.3f} ms per query{ratio}')
    for name, value in record['loss']['seconds'].items():
        print(f'  loss, {name:<14}{value * 1e3:9.1f} ms per step')
    print(f'  ranks that differ: {record["ranking"]["ranks_that_differ"]}')
    if args.out:
        write_json(record, args.out, indent=2)


if __name__ == '__main__':
    run_command(main)
