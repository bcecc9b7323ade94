"""Building a category graph from what is known about the classes.

Hierarchy: WordNet synsets and their hypernyms, super-categories, or the words of the names. Images: classes that are
seen together more often than by chance, by pointwise mutual information (Church and Hanks, 1990), which must be counted
on training images only. Anything else: triples of names.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dinor1.utils.errors import InputError

from .graph import INVERSE, RELATIONS, CategoryGraph

Parents = Mapping[str, str | Sequence[str]]


def build_category_graph(
    names: Sequence[str],
    *,
    synsets: Sequence[str | None] | None = None,
    hypernyms: Mapping[str, Sequence[str]] | None = None,
    supercategories: Sequence[str | None] | None = None,
    parents: Parents | str | None = None,
    triples: Iterable[tuple[str, str, str]] | None = None,
    cooccurrence: Tensor | None = None,
    num_images: int | None = None,
    topk: int = 8,
    min_pmi: float = 0.0,
    pe_dim: int = 8,
) -> CategoryGraph:
    """Build a graph from any of the following; from nothing but names it has no edges.

    Hierarchy edges are there both ways, ``hypernym`` from child to parent and ``hyponym`` back. A parent with the name
    of a class is that class.

    Args:
        names: C classes, in the detector's order.
        synsets: WordNet name of each class, such as ``dog.n.01``, or ``None``; needs ``hypernyms``.
        hypernyms: Direct hypernyms of every synset on the way up, see :func:`wordnet_hypernyms`. Of these, kept as
            parents are those at which classes meet; a class is linked to its nearest kept ancestors.
        supercategories: Parent of each class, or ``None``, as in COCO's files.
        parents: Parents by the name of the child; a parent may have parents. ``'words'``: see :func:`word_parents`.
        triples: (head, relation, tail) by name. Names and relations that are new are added; for the relations of
            :data:`RELATIONS` the inverse edge too.
        cooccurrence: ``(C, C)``, images that show both classes; on the diagonal, images that show the class.
        num_images: Of all images that were counted. ``None``: chance is estimated from the pairs alone, see
            :func:`positive_pmi`.
        topk: Neighbours by co-occurrence that a class chooses; being chosen can add more.
        min_pmi: Pairs need a mutual information above it, in nats.
        pe_dim: Columns of the Laplacian code.

    Returns:
        The graph, its edges sorted; equal edges from several sources once, with the largest weight.

    Raises:
        InputError: names are missing or not unique, lengths do not fit, or a triple links a node with itself.
    """
    names = list(names)
    if len(set(names)) != len(names):
        raise InputError(f'category {next(n for n in names if names.count(n) > 1)!r} is listed twice')
    builder = _Builder(names)
    for what, given in (('synsets', synsets), ('supercategories', supercategories)):
        if given is not None and len(given) != len(names):
            raise InputError(f'{len(given)} {what} for {len(names)} categories; give one, or None, for each')
    if synsets is not None:
        if hypernyms is None:
            raise InputError('synsets need hypernyms, see dinor1.blocks.category_graph.wordnet_hypernyms')
        builder.add_hierarchy(synset_parents(names, synsets, hypernyms))
    if supercategories is not None:
        builder.add_hierarchy({name: p for name, p in zip(names, supercategories, strict=True) if p})
    if isinstance(parents, str):
        if parents != 'words':
            raise InputError(f"parents must be 'words' or a dict from child to parent, got {parents!r}")
        parents = word_parents(names)
    builder.add_hierarchy(parents or {})
    for head, relation, tail in triples or ():
        if head == tail:
            raise InputError(f'triple ({head!r}, {relation!r}, {tail!r}) links a node with itself; leave it out')
        builder.add(head, relation, tail)
    if cooccurrence is not None:
        weights = positive_pmi(cooccurrence, num_images, topk=topk, min_pmi=min_pmi)
        if len(weights) != len(names):
            raise InputError(f'cooccurrence is {tuple(cooccurrence.shape)} for {len(names)} categories')
        for i, j in weights.nonzero().tolist():
            builder.add(names[i], 'co_occurs', names[j], float(weights[i, j]))
    return builder.graph(pe_dim)


def positive_pmi(counts: Tensor, num_images: int | None = None, *, topk: int = 8, min_pmi: float = 0.0) -> Tensor:
    """Weights of pairs that are seen together more often than by chance.

    PMI of i and j is log(n_ij N / (n_i n_j)). With ``num_images``, N is that, and n_i the diagonal; without, n_i counts
    the pairs of i, and N all pairs.

    Args:
        counts: ``(C, C)`` symmetric, at least 0.
        num_images: See above.
        topk: Each class chooses as many partners, those of the largest PMI; a pair stays if one chooses the other.
        min_pmi: In nats; pairs need more, and more than 0.

    Returns:
        ``(C, C)`` float32 symmetric in [0, 1]: PMI divided by its maximum, 0 = no pair.

    Raises:
        InputError: the counts are not such a matrix, or do not fit the number of images.
    """
    if counts.dim() != 2 or counts.shape[0] != counts.shape[1] or not torch.equal(counts, counts.T):
        raise InputError(f'cooccurrence must be a symmetric square matrix, got {tuple(counts.shape)}')
    counts = counts.double()
    if (counts < 0).any() or (num_images is not None and len(counts) and counts.max() > num_images):
        raise InputError(f'cooccurrence must be in [0, {"number of images" if num_images is None else num_images}]')
    own = counts.diagonal()
    if num_images is not None and (counts > torch.minimum(own[:, None], own)).any():
        raise InputError('cooccurrence has a pair in more images than one of its classes, which the diagonal counts')
    pairs = counts.clone().fill_diagonal_(0)
    single = own if num_images is not None else pairs.sum(1)
    total = num_images if num_images is not None else float(pairs.sum())
    # Where nothing was counted, the logarithm is -inf or nan: neither exceeds the bound.
    pmi = (pairs * total / (single[:, None] * single)).log()
    pmi = torch.where(pmi > max(0.0, min_pmi), pmi, 0.0)
    if not len(pmi) or topk < 1 or not pmi.any():
        return torch.zeros_like(pmi, dtype=torch.float32)
    best, partner = pmi.topk(min(topk, len(pmi)), dim=1)
    chosen = torch.zeros_like(pmi).scatter(1, partner, best)
    chosen = torch.maximum(chosen, chosen.T)
    return (chosen / chosen.max()).float()


def word_parents(names: Sequence[str], min_count: int = 2) -> dict[str, list[str]]:
    """Words that several names share, as parents: "striped circle" stands below "striped" and "circle".

    For vocabularies whose names are put together from attributes. A name that is itself one of these words is no child
    of it.

    Args:
        names: Class names; underscores are spaces.
        min_count: Names that must have a word.
    """
    words = {name: list(dict.fromkeys(name.replace('_', ' ').split())) for name in names}
    count: dict[str, int] = defaultdict(int)
    for of_name in words.values():
        for word in of_name:
            count[word] += 1
    shared = {name: [w for w in of_name if count[w] >= min_count and w != name] for name, of_name in words.items()}
    return {name: parents for name, parents in shared.items() if parents}


def synset_parents(
    names: Sequence[str], synsets: Sequence[str | None], hypernyms: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Parents by the name of the child, from WordNet.

    Kept are the synsets of classes, and those at which classes meet: more than one class is below, and not all of these
    below a single one of its hyponyms. What is between two kept ones is skipped, as is a parent above another parent.

    Args:
        names: C classes.
        synsets: Of each class, or ``None``.
        hypernyms: Direct hypernyms of a synset; a missing one has none.
    """
    below: dict[str, set[int]] = defaultdict(set)
    hyponyms: dict[str, set[str]] = defaultdict(set)
    for i, synset in enumerate(synsets):
        for current in _closure(synset, hypernyms) if synset else ():
            below[current].add(i)
            for hypernym in hypernyms.get(current, ()):
                hyponyms[hypernym].add(current)
    of_class: dict[str, list[str]] = defaultdict(list)
    for name, synset in zip(names, synsets, strict=True):
        if synset:
            of_class[synset].append(name)
    meeting = {s for s, classes in below.items() if len(classes) > 1 and all(below[h] != classes for h in hyponyms[s])}
    kept = {synset: [synset] for synset in meeting} | of_class

    above = {synset: _closure(synset, hypernyms) - {synset} for synset in kept}
    result = {}
    for synset, nodes in kept.items():
        candidates = [other for other in kept if other in above[synset]]
        nearest = [a for a in candidates if not any(a in above[b] for b in candidates if b != a)]
        # Classes of one synset have the same parents.
        parents = [node for other in nearest for node in kept[other]]
        result.update({node: parents for node in nodes if parents})
    return result


def _closure(synset: str, hypernyms: Mapping[str, Sequence[str]]) -> set[str]:
    """A synset and all above it."""
    found, waiting = {synset}, [synset]
    while waiting:
        new = [above for above in hypernyms.get(waiting.pop(), ()) if above not in found]
        found.update(new)
        waiting += new
    return found


class _Builder:
    """Collects nodes and edges by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.num_classes = len(names)
        self.nodes = {name: i for i, name in enumerate(names)}
        self.relations = {name: i for i, name in enumerate(RELATIONS)}
        self.edges: dict[tuple[int, int, int], float] = {}

    def add(self, head: str, relation: str, tail: str, weight: float = 1.0) -> None:
        """Add an edge, and its inverse if the relation has one."""
        numbers = [self.nodes.setdefault(name, len(self.nodes)) for name in (head, tail)]
        self._edge(numbers[0], relation, numbers[1], weight)
        if relation in INVERSE:
            self._edge(numbers[1], INVERSE[relation], numbers[0], weight)

    def add_hierarchy(self, parents: Parents) -> None:
        """Add parents by the name of the child; a name above itself is left out."""
        for child, above in parents.items():
            for parent in [above] if isinstance(above, str) else above:
                if parent != child:
                    self.add(child, 'hypernym', parent)

    def _edge(self, head: int, relation: str, tail: int, weight: float) -> None:
        key = (self.relations.setdefault(relation, len(self.relations)), head, tail)
        self.edges[key] = max(weight, self.edges.get(key, 0.0))

    def graph(self, pe_dim: int) -> CategoryGraph:
        """The graph of all that was added."""
        rows = torch.tensor(sorted(self.edges), dtype=torch.long).reshape(-1, 3)
        edge_index = rows[:, 1:].T.contiguous()
        return CategoryGraph(
            names=tuple(self.nodes),
            num_classes=self.num_classes,
            edge_index=edge_index,
            edge_type=rows[:, 0].contiguous(),
            edge_weight=torch.tensor([self.edges[tuple(row)] for row in rows.tolist()], dtype=torch.float32),
            pe=torch.zeros(len(self.nodes), 0),
            relations=tuple(self.relations),
        ).with_encoding(pe_dim)
