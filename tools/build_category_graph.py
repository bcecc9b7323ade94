#!/usr/bin/env python
"""Build a category graph from the annotation file of a training set in COCO or LVIS format.

The hierarchy comes from WordNet (for LVIS's synsets, if NLTK and its data are installed), from super-categories (COCO)
or, with --words, from words that several names share. Other edges connect classes that appear in the same images more
often than by chance. Only FILE is read for these counts: give a training set, never an evaluated set.

Examples:
    python tools/build_category_graph.py data/coco/annotations/instances_train2017.json --out coco_graph.safetensors
    python tools/build_category_graph.py data/lvis/annotations/lvis_v1_train.json --out lvis_graph.safetensors
    python tools/build_category_graph.py data/shapes/annotations/train.json --words --no-images \
        --names-of data/shapes/annotations/val_novel.json --out shapes_graph.safetensors
    python tools/build_category_graph.py FILE --out graph.safetensors --complete co_occurs
"""

import argparse
import math


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('annotations', metavar='FILE.json', help='annotation file of a training set')
    parser.add_argument('--out', required=True, metavar='FILE.safetensors', help='category graph to write')
    parser.add_argument(
        '--names-of',
        nargs='+',
        default=[],
        metavar='FILE.json',
        help='add the classes of these files, such as novel ones; only their categories are read',
    )
    parser.add_argument(
        '--wordnet',
        choices=['auto', 'yes', 'no'],
        default='auto',
        help='use hypernyms of the synsets; if WordNet is missing, yes is an error, auto omits them (default: auto)',
    )
    parser.add_argument('--words', action='store_true', help='make parents of words that several names share')
    parser.add_argument('--no-images', action='store_true', help='leave out co-occurrence')
    parser.add_argument('--topk', type=int, default=8, help='neighbours by co-occurrence per class (default: 8)')
    parser.add_argument('--min-pmi', type=float, default=0.0, help='smallest mutual information, in nats (default: 0)')
    parser.add_argument('--pe-dim', type=int, default=8, help='columns of the Laplacian encoding (default: 8)')
    parser.add_argument(
        '--complete',
        metavar='RELATION',
        help='train NFE on the edges, report its ranking of held-out edges, and add the edges that it predicts',
    )
    parser.add_argument(
        '--nfe',
        nargs=3,
        type=float,
        default=[32, 200, 0.03],
        metavar=('DIM', 'EPOCHS', 'LR'),
        help='width, epochs and learning rate of NFE (default: 32 200 0.03)',
    )
    parser.add_argument(
        '--min-prob', type=float, default=0.5, help='smallest probability of an added edge (default: 0.5)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of NFE (default: 0)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from dinor1.blocks.category_graph import build_category_graph, cooccurrence_counts, read_categories, word_parents
    from dinor1.utils.io import read_json

    # Read the classes of all files.
    check(args)
    data = read_json(args.annotations)
    known = read_categories(data, args.annotations)
    fields = {name: rest for name, *rest in zip(known.names, known.synsets, known.supercategories, strict=True)}
    for path in args.names_of:
        more = read_categories(read_json(path), path)
        for name, *rest in zip(more.names, more.synsets, more.supercategories, strict=True):
            fields.setdefault(name, rest)
    names = list(fields)
    synsets, supercategories = zip(*fields.values(), strict=True)
    # Collect the hierarchy and the co-occurrences.
    settings = dict(supercategories=supercategories, parents=word_parents(names) if args.words else None)
    hypernyms = hypernyms_of(synsets, args.wordnet)
    if hypernyms is not None:
        settings |= dict(synsets=synsets, hypernyms=hypernyms)
    if not args.no_images:
        counts, num_images = cooccurrence_counts(data, known.ids, args.annotations)
        # Classes of the other files have no co-occurrences.
        whole = counts.new_zeros(len(names), len(names))
        whole[: len(known.ids), : len(known.ids)] = counts
        settings |= dict(cooccurrence=whole, num_images=num_images, topk=args.topk, min_pmi=args.min_pmi)
    # Build the graph, complete it, and write it.
    graph = build_category_graph(names, pe_dim=args.pe_dim, **settings)
    if args.complete:
        graph = complete(graph, args)
    graph.save(args.out)
    # Report.
    parents = len(graph.names) - graph.num_classes
    print(f'{graph.num_classes} classes, {parents} parents: {args.out}')
    for number, relation in enumerate(graph.relations):
        print(f'  {relation:<10} {int((graph.edge_type == number).sum()):7d} edges')
    alone = graph.num_classes - len(graph.edge_index[1][graph.edge_index[1] < graph.num_classes].unique())
    if alone:
        print(f'  {alone} classes have no edge')


def check(args: argparse.Namespace) -> None:
    """Check the options before any file is read."""
    from dinor1.blocks.category_graph import RELATIONS
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output

    if not args.out.endswith('.safetensors'):
        raise InputError(f'--out {args.out}: expected a file name that ends in .safetensors')
    check_output(args.out, '--out')
    # Check the numbers.
    dim, epochs, lr = args.nfe
    for option, value, good, wanted in (
        ('--topk', args.topk, args.topk >= 1, 'at least 1'),
        ('--min-pmi', args.min_pmi, math.isfinite(args.min_pmi), 'finite'),
        ('--pe-dim', args.pe_dim, args.pe_dim >= 0, 'at least 0'),
        ('--nfe DIM', dim, dim >= 1 and dim % 1 == 0, 'a whole number of at least 1'),
        ('--nfe EPOCHS', epochs, epochs >= 1 and epochs % 1 == 0, 'a whole number of at least 1'),
        ('--nfe LR', lr, 0 < lr < math.inf, 'positive and finite'),
        ('--min-prob', args.min_prob, 0 <= args.min_prob <= 1, 'in [0, 1]'),
        ('--seed', args.seed, 0 <= args.seed < 2**63, 'in [0, 2^63)'),
    ):
        if not good:
            raise InputError(f'{option} must be {wanted}, got {value:g}')
    if args.complete is not None and args.complete not in RELATIONS:
        raise InputError(f'--complete {args.complete}: no such relation; give one of {", ".join(RELATIONS)}')


def hypernyms_of(synsets, wordnet: str) -> dict[str, list[str]] | None:
    """Return the hypernyms of the synsets; None without synsets, or without WordNet if it is not required."""
    from dinor1.blocks.category_graph import wordnet_hypernyms
    from dinor1.utils.errors import InputError

    if wordnet == 'no' or not any(synsets):
        if wordnet == 'yes':
            raise InputError('--wordnet yes: the categories have no synsets; only LVIS has them')
        return None
    try:
        return wordnet_hypernyms(synsets)
    except InputError as error:
        if wordnet == 'yes':
            raise
        print(f'Without the hierarchy of the synsets: {error}')
        return None


def complete(graph, args: argparse.Namespace):
    """Report NFE's ranking of held-out edges, then train it on all edges and add the edges that it predicts."""
    import torch

    from dinor1.blocks.category_graph import complete_category_graph, held_out_ranking
    from dinor1.blocks.nfe import NFE, fit, graph_triples
    from dinor1.utils.errors import InputError

    # Rank held-out edges.
    dim, epochs, lr = int(args.nfe[0]), int(args.nfe[1]), args.nfe[2]
    try:
        result = held_out_ranking(graph, seed=args.seed, epochs=epochs, lr=lr, dim=dim)
    except ValueError as error:
        raise InputError(f'--complete: {error}') from error
    print(
        f'NFE, {len(result["ranks"])} held-out queries: MRR {result["mrr"]:.3f}, Hits@10 {result["hits@10"]:.3f} '
        f'(chance: MRR {result["chance"]:.3f})'
    )
    # Train on all edges, and add edges.
    torch.manual_seed(args.seed)
    nfe = NFE(len(graph.names), len(graph.relations), dim)
    fit(nfe, graph_triples(graph), epochs=epochs, lr=lr, seed=args.seed)
    denser = complete_category_graph(graph, args.complete, nfe, min_prob=args.min_prob)
    print(f'{len(denser.edge_type) - len(graph.edge_type)} edges added')
    return denser


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
