"""Build a category graph from a hierarchy of the classes, from images, or from triples.

Hierarchy: WordNet synsets and their hypernyms, super-categories, or the words of the names. Images: classes that occur
together more often than by chance, by pointwise mutual information (Church and Hanks, 1990), which must be counted on
training images only. Other relations: triples of names.
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
    """Build a graph from any of these sources; from names alone the graph has no edges.

    Hierarchy edges are added in both directions, ``hypernym`` from child to parent and ``hyponym`` back. A parent with
    the name of a class is that class.

    Args:
        names: C classes, in the detector's order.
        synsets: WordNet name of each class, such as ``dog.n.01``, or ``None``; needs ``hypernyms``.
        hypernyms: Direct hypernyms of every synset and of its ancestors, see :func:`wordnet_hypernyms`. Ancestors are
            kept where branches with different classes meet; a class is linked to its nearest kept ancestors.
        supercategories: Parent of each class, or ``None``, as in COCO's files.
        parents: Parents by the name of the child; a parent may have parents. ``'words'``: see :func:`word_parents`.
        triples: (head, relation, tail) by name. New names and relations are added; for the relations of
            :data:`RELATIONS` the inverse edge too.
        cooccurrence: ``(C, C)``, images that show both classes; on the diagonal, images that show the class.
        num_images: Number of images that were counted. ``None``: chance is estimated from the pairs alone, see
            :func:`positive_pmi`.
        topk: Neighbours by co-occurrence that each class chooses; it also gets those that choose it.
        min_pmi: Least mutual information of a pair, exclusive, in nats.
        pe_dim: Columns of the Laplacian code.

    Returns:
        The graph with sorted edges; an edge from several sources is kept once, with the largest weight.

    Raises:
        InputError: names are missing or not unique, lengths differ, or a triple links a node with itself.
    """
    names = list(names)
    if len(set(names)) != len(names):
        raise InputError(f'category {next(n for n in names if names.count(n) > 1)!r} is listed twice')
    builder = _Builder(names)
    # Check that every list has one entry per class.
    for what, given in (('synsets', synsets), ('supercategories', supercategories)):
        if given is not None and len(given) != len(names):
            raise InputError(f'{len(given)} {what} for {len(names)} categories; give one, or None, for each')
    # Add the hierarchy from each source.
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
    # Add the triples.
    for head, relation, tail in triples or ():
        if head == tail:
            raise InputError(f'triple ({head!r}, {relation!r}, {tail!r}) links a node with itself; leave it out')
        builder.add(head, relation, tail)
    # Add co-occurrence edges.
    if cooccurrence is not None:
        weights = positive_pmi(cooccurrence, num_images, topk=topk, min_pmi=min_pmi)
        if len(weights) != len(names):
            raise InputError(f'cooccurrence is {tuple(cooccurrence.shape)} for {len(names)} categories')
        for i, j in weights.nonzero().tolist():
            builder.add(names[i], 'co_occurs', names[j], float(weights[i, j]))
    return builder.graph(pe_dim)


def positive_pmi(counts: Tensor, num_images: int | None = None, *, topk: int = 8, min_pmi: float = 0.0) -> Tensor:
    """Weights of pairs of classes that occur together more often than by chance.

    PMI of i and j is log(n_ij N / (n_i n_j)). With ``num_images``, N is ``num_images`` and n_i the diagonal. Without,
    n_i is the number of pairs with i, and N the number of all pairs.

    Args:
        counts: ``(C, C)`` symmetric, at least 0.
        num_images: Number of images that were counted, or ``None``, see above.
        topk: Partners of the largest PMI that each class chooses; a pair is kept if one class chooses the other.
        min_pmi: Pairs need more than this and more than 0, in nats.

    Returns:
        ``(C, C)`` float32 symmetric in [0, 1]: PMI divided by its maximum; 0 for no pair.

    Raises:
        InputError: ``counts`` is not a symmetric matrix of counts, or contradicts the number of images.
    """
    # Check the counts.
    if counts.dim() != 2 or counts.shape[0] != counts.shape[1] or not torch.equal(counts, counts.T):
        raise InputError(f'cooccurrence must be a symmetric square matrix, got {tuple(counts.shape)}')
    counts = counts.double()
    if (counts < 0).any() or (num_images is not None and len(counts) and counts.max() > num_images):
        raise InputError(f'cooccurrence must be in [0, {"number of images" if num_images is None else num_images}]')
    own = counts.diagonal()
    if num_images is not None and (counts > torch.minimum(own[:, None], own)).any():
        raise InputError('cooccurrence counts a pair in more images than one of its classes (the diagonal)')
    # Compute the PMI; pairs at or below the bound get 0.
    pairs = counts.clone().fill_diagonal_(0)
    single = own if num_images is not None else pairs.sum(1)
    total = num_images if num_images is not None else float(pairs.sum())
    # Without counts the logarithm is -inf or nan; neither exceeds the bound.
    pmi = (pairs * total / (single[:, None] * single)).log()
    pmi = torch.where(pmi > max(0.0, min_pmi), pmi, 0.0)
    if not len(pmi) or topk < 1 or not pmi.any():
        return torch.zeros_like(pmi, dtype=torch.float32)
    # Keep the best partners of each class, and make the result symmetric.
    best, partner = pmi.topk(min(topk, len(pmi)), dim=1)
    chosen = torch.zeros_like(pmi).scatter(1, partner, best)
    chosen = torch.maximum(chosen, chosen.T)
    return (chosen / chosen.max()).float()


def word_parents(names: Sequence[str], min_count: int = 2) -> dict[str, list[str]]:
    """Words that several names share, as parents: "striped circle" is a child of "striped" and "circle".

    For vocabularies whose names are composed of attributes. A name that equals one of these words is not its own child.

    Args:
        names: Class names; underscores are spaces.
        min_count: Names that must contain a word for it to become a parent.
    """
    # Split the names into words, each once.
    words = {name: list(dict.fromkeys(name.replace('_', ' ').split())) for name in names}
    # Count the names that contain each word.
    count: dict[str, int] = defaultdict(int)
    for of_name in words.values():
        for word in of_name:
            count[word] += 1
    # Keep the shared words; a name is not its own parent.
    shared = {name: [w for w in of_name if count[w] >= min_count and w != name] for name, of_name in words.items()}
    return {name: parents for name, parents in shared.items() if parents}


def synset_parents(
    names: Sequence[str], synsets: Sequence[str | None], hypernyms: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Parents by the name of the child, from WordNet.

    Kept synsets are those of classes, and those where classes meet: more than one class is below, and no single hyponym
    is above the same classes. Synsets between two kept ones are skipped, and so is a parent above another parent.

    Args:
        names: C classes.
        synsets: WordNet name of each class, or ``None``.
        hypernyms: Direct hypernyms of a synset; a missing synset has none.
    """
    # Collect the classes and the hyponyms below every synset.
    below: dict[str, set[int]] = defaultdict(set)
    hyponyms: dict[str, set[str]] = defaultdict(set)
    for i, synset in enumerate(synsets):
        for current in _closure(synset, hypernyms) if synset else ():
            below[current].add(i)
            for hypernym in hypernyms.get(current, ()):
                hyponyms[hypernym].add(current)
    # Keep the synsets of classes, and those where classes meet.
    of_class: dict[str, list[str]] = defaultdict(list)
    for name, synset in zip(names, synsets, strict=True):
        if synset:
            of_class[synset].append(name)
    meeting = {s for s, classes in below.items() if len(classes) > 1 and all(below[h] != classes for h in hyponyms[s])}
    kept = {synset: [synset] for synset in meeting} | of_class

    # Link every kept synset to its nearest kept ancestors.
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
    """A synset and all its ancestors."""
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
        """Add parents by the name of the child; a name that is its own parent is skipped."""
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
