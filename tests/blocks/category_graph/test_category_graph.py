"""The category graph: construction, file, completion, and its tool."""

import dataclasses
import importlib.util
import json
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from dinor1.blocks.category_graph import (
    CategoryGraph,
    build_category_graph,
    complete_category_graph,
    cooccurrence_counts,
    held_out_ranking,
    positive_pmi,
    read_categories,
    word_parents,
    wordnet_hypernyms,
)
from dinor1.blocks.nfe import NFE, fit, graph_triples
from dinor1.datasets.shapes_world import CATEGORIES, FILLS, SHAPES
from dinor1.utils.errors import InputError

TREE = {
    'dog': 'animal',
    'cat': 'animal',
    'animal': 'thing',
    'cup': 'thing',
}


def edges(graph, relation) -> set[tuple[str, str]]:
    """Edges of a relation by name."""
    chosen = graph.edge_type == graph.relations.index(relation)
    return {(graph.names[i], graph.names[j]) for i, j in graph.edge_index[:, chosen].T.tolist()}


def shapes_graph(**kwargs) -> CategoryGraph:
    return build_category_graph(CATEGORIES, parents='words', **kwargs)


# Hierarchy -------------------------------------------------------------------------------------------------


def test_category_graph_from_names_has_no_edges():
    graph = build_category_graph(['b', 'a'])
    assert graph.names == ('b', 'a')
    assert graph.num_classes == 2
    assert graph.edge_index.shape == (2, 0)
    assert graph.pe.shape == (2, 8)
    none = build_category_graph([])
    assert none.names == ()
    assert none.pe.shape == (0, 8)
    assert none.below.shape == (0, 0)


def test_category_graph_word_parents_are_shapes_and_fills():
    graph = shapes_graph()
    assert graph.names[:16] == CATEGORIES
    assert set(graph.names[16:]) == set(SHAPES + FILLS)
    expected = {(name, word) for name in CATEGORIES for word in name.split()}
    assert edges(graph, 'hypernym') == expected
    assert edges(graph, 'hyponym') == {(parent, child) for child, parent in expected}
    below = graph.below[graph.names.index('striped')]
    assert [CATEGORIES[i] for i in below.nonzero().flatten()] == [n for n in CATEGORIES if n.startswith('striped ')]


def test_word_parents_splits_names():
    names = ['red_cup', 'red plate', 'cup', 'blue jug', 'red red cup']
    assert word_parents(names) == {'red_cup': ['red', 'cup'], 'red plate': ['red'], 'red red cup': ['red', 'cup']}
    assert word_parents(names, min_count=4) == {}
    graph = build_category_graph(names, parents='words')
    # "cup" is a class and a parent; there is no second node of that name.
    assert graph.names == (*names, 'red')
    assert ('red_cup', 'cup') in edges(graph, 'hypernym')


def test_category_graph_parents_may_have_parents():
    graph = build_category_graph(['dog', 'cat', 'cup'], parents=TREE)
    assert edges(graph, 'hypernym') == set(TREE.items())
    below = {name: row.nonzero().flatten().tolist() for name, row in zip(graph.names, graph.below, strict=True)}
    assert below == dict(dog=[0], cat=[1], cup=[2], animal=[0, 1], thing=[0, 1, 2])


def test_category_graph_cycle_of_parents_terminates():
    graph = build_category_graph(['a', 'b'], parents=dict(a='b', b='c', c='a'))
    assert graph.below.all()


def test_category_graph_supercategories_of_coco():
    graph = build_category_graph(['person', 'cat', 'dog', 'kite'], supercategories=['person', 'animal', 'animal', None])
    assert graph.names == ('person', 'cat', 'dog', 'kite', 'animal')
    assert edges(graph, 'hypernym') == {('cat', 'animal'), ('dog', 'animal')}


WORDNET = {
    'pug.n.01': ['dog.n.01'],
    'dog.n.01': ['canine.n.02', 'domestic_animal.n.01'],
    'canine.n.02': ['carnivore.n.01'],
    'wolf.n.01': ['canine.n.02'],
    'cat.n.01': ['feline.n.01'],
    'feline.n.01': ['carnivore.n.01'],
    'carnivore.n.01': ['animal.n.01'],
    'domestic_animal.n.01': ['animal.n.01'],
    'animal.n.01': ['object.n.01'],
    'cup.n.01': ['container.n.01'],
    'container.n.01': ['object.n.01'],
    'object.n.01': ['entity.n.01'],
    'entity.n.01': [],
}


def test_category_graph_synsets_link_to_nearest_kept_ancestors():
    names = ['pug', 'dog', 'wolf', 'cat', 'cup', 'elf']
    synsets = ['pug.n.01', 'dog.n.01', 'wolf.n.01', 'cat.n.01', 'cup.n.01', None]
    graph = build_category_graph(names, synsets=synsets, hypernyms=WORDNET)
    # Classes and synsets where classes meet are kept. "feline" has one class below, "entity" those of "object".
    assert edges(graph, 'hypernym') == {
        ('pug', 'dog'),
        # Not to "object", although a second path leads there past "domestic animal" and "animal".
        ('dog', 'canine.n.02'),
        ('wolf', 'canine.n.02'),
        ('canine.n.02', 'carnivore.n.01'),
        ('cat', 'carnivore.n.01'),
        ('carnivore.n.01', 'object.n.01'),
        ('cup', 'object.n.01'),
    }


def test_category_graph_two_classes_of_one_synset():
    graph = build_category_graph(
        ['pooch', 'hound', 'wolf'], synsets=['dog.n.01', 'dog.n.01', 'wolf.n.01'], hypernyms=WORDNET
    )
    assert edges(graph, 'hypernym') == {(name, 'canine.n.02') for name in ('pooch', 'hound', 'wolf')}


@pytest.fixture
def fake_nltk(monkeypatch):
    """NLTK's interface for the table above, since NLTK and its data are not installed for tests."""

    class WordNetError(Exception):
        pass

    class Synset:
        def __init__(self, name):
            self._name = name

        def name(self):
            return self._name

        def hypernyms(self):
            return [Synset(name) for name in WORDNET[self._name][:1]]

        def instance_hypernyms(self):
            return [Synset(name) for name in WORDNET[self._name][1:]]

    class WordNet:
        loaded = True

        def ensure_loaded(self):
            if not self.loaded:
                raise LookupError

        def synset(self, name):
            if name not in WORDNET:
                raise WordNetError(name)
            return Synset(name)

    # Install the fake as modules of NLTK.
    modules = {name: types.ModuleType(name) for name in ('nltk', 'nltk.corpus', 'nltk.corpus.reader')}
    modules['nltk.corpus.reader.wordnet'] = reader = types.ModuleType('nltk.corpus.reader.wordnet')
    reader.WordNetError, modules['nltk.corpus'].wordnet = WordNetError, WordNet()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules['nltk.corpus'].wordnet


def test_wordnet_hypernyms_come_from_nltk(fake_nltk):
    above = wordnet_hypernyms(['dog.n.01', None, 'made_up.n.01'])
    expected = {name: WORDNET[name] for name in WORDNET if name not in ('pug.n.01', 'wolf.n.01', 'cat.n.01')}
    for unused in ('feline.n.01', 'cup.n.01', 'container.n.01'):
        del expected[unused]
    assert above == expected | {'made_up.n.01': []}
    fake_nltk.loaded = False
    with pytest.raises(InputError, match='the data of WordNet is missing or incomplete'):
        wordnet_hypernyms(['dog.n.01'])


def test_wordnet_hypernyms_without_nltk_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, 'nltk.corpus', None)
    with pytest.raises(InputError, match='WordNet needs NLTK, which is not installed; pip install nltk'):
        wordnet_hypernyms(['dog.n.01'])


# Co-occurrence and triples ----------------------------------------------------------------------------------


def annotation_file():
    """Ten images: classes 1 and 2 share four of them, 3 is alone, 9 is not of interest."""
    shown = {0: [1, 2], 1: [1, 2], 2: [1, 2, 2], 3: [1, 2, 9], 4: [1], 5: [3], 6: [3, 9], 7: [], 8: [], 9: [2, 3]}
    return dict(
        images=[dict(id=i) for i in shown],
        annotations=[
            dict(id=10 * i + k, image_id=i, category_id=c) for i, cs in shown.items() for k, c in enumerate(cs)
        ],
        categories=[
            dict(id=3, name='c', supercategory='x'),
            dict(id=1, name='a', synset='a.n.01'),
            dict(id=2, name='b', supercategory=''),
        ],
    )


def test_read_categories_reads_all_fields():
    categories = read_categories(annotation_file())
    assert categories.ids == (1, 2, 3)
    assert categories.names == ('a', 'b', 'c')
    assert categories.synsets == ('a.n.01', None, None)
    assert categories.supercategories == (None, None, 'x')


def test_cooccurrence_counts_images_with_both_classes():
    counts, num_images = cooccurrence_counts(annotation_file(), [1, 2, 3])
    assert counts.tolist() == [[5, 4, 0], [4, 5, 1], [0, 1, 3]]
    assert num_images == 10
    counts, num_images = cooccurrence_counts(dict(images=[], annotations=[]), [1, 2])
    assert counts.tolist() == [[0, 0], [0, 0]]
    assert num_images == 0


def test_positive_pmi_closed_form():
    counts, num_images = cooccurrence_counts(annotation_file(), [1, 2, 3])
    # a and b: 4 of 10 images, expected 5/10 * 5/10 * 10 = 2.5. b and c: 1, expected 1.5.
    weights = positive_pmi(counts, num_images)
    assert weights.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert positive_pmi(counts, num_images, min_pmi=0.48).sum() == 0  # log(4 / 2.5) = 0.470
    assert positive_pmi(counts, num_images, min_pmi=0.46).sum() == 2
    # From the pairs alone: ten pairs in both directions; a is in 4, b in 5, c in 1.
    alone = positive_pmi(counts)
    expected = torch.tensor([4 * 10 / (4 * 5), 1 * 10 / (5 * 1)]).log()
    torch.testing.assert_close(alone[[0, 1], [1, 2]], expected / expected.max())


def test_positive_pmi_topk_is_symmetric():
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand(200, 12, generator=generator) < 0.3
    counts = shown.T.long() @ shown.long()
    full, few = (positive_pmi(counts, 200, topk=k) for k in (12, 1))
    assert torch.equal(few, few.T)
    assert few.max() == 1
    assert few.min() == 0
    assert ((few == full) | (few == 0)).all()
    for row, chosen in zip(full, few, strict=True):
        assert row.max() == 0 or chosen[row.argmax()] == row.max()
    assert 12 <= (few > 0).sum() < (full > 0).sum()
    graph = build_category_graph([str(i) for i in range(12)], cooccurrence=counts, num_images=200, topk=1)
    assert set(graph.edge_type.tolist()) == {graph.relations.index('co_occurs')}
    torch.testing.assert_close(few[graph.edge_index[0], graph.edge_index[1]], graph.edge_weight)


def test_category_graph_triples_add_relations():
    triples = [('wheel', 'part_of', 'car'), ('dog', 'hypernym', 'animal'), ('car', 'similar', 'bus')]
    graph = build_category_graph(['car', 'dog', 'bus'], triples=triples, parents=dict(dog='animal'))
    assert graph.names == ('car', 'dog', 'bus', 'animal', 'wheel')
    assert graph.relations == ('hypernym', 'hyponym', 'co_occurs', 'similar', 'part_of')
    assert edges(graph, 'part_of') == {('wheel', 'car')}
    # An edge from two sources is kept once.
    assert edges(graph, 'hypernym') == {('dog', 'animal')}
    assert len(graph.edge_type) == 5
    assert edges(graph, 'similar') == {('car', 'bus'), ('bus', 'car')}


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: build_category_graph(['a', 'b', 'a']), "category 'a' is listed twice"),
        (lambda: build_category_graph(['a'], synsets=[None, None], hypernyms={}), '2 synsets for 1 categories'),
        (lambda: build_category_graph(['a'], supercategories=[]), '0 supercategories for 1 categories'),
        (lambda: build_category_graph(['a'], synsets=['a.n.01']), 'synsets need hypernyms'),
        (lambda: build_category_graph(['a'], parents='letters'), "parents must be 'words' or a dict"),
        (lambda: build_category_graph(['a'], triples=[('a', 'is', 'a')]), 'links a node with itself'),
        (lambda: build_category_graph(['a'], cooccurrence=torch.eye(2)), r'cooccurrence is \(2, 2\) for 1 categories'),
        (lambda: positive_pmi(torch.tensor([[1, 2], [3, 1]])), 'must be a symmetric square matrix'),
        (lambda: positive_pmi(torch.tensor([[4]]), 3), r'cooccurrence must be in \[0, 3\]'),
        (lambda: positive_pmi(torch.tensor([[0, 3], [3, 5]]), 10), 'a pair in more images than one of its classes'),
        (lambda: read_categories([]), 'no categories; expected an annotation file of COCO or LVIS'),
        (lambda: read_categories(dict(categories=[dict(id=1)]), 'f.json'), 'f.json: category number 0 has no id or no'),
        (lambda: cooccurrence_counts(dict(images=[]), []), 'no images or no annotations'),
        (
            lambda: cooccurrence_counts(dict(images=[], annotations=[dict(id=7, image_id=3, category_id=1)]), [1]),
            'annotation 7 refers to unknown image 3',
        ),
    ],
)
def test_category_graph_bad_input_raises(make, message):
    with pytest.raises(InputError, match=message):
        make()


# The graph itself and its file ------------------------------------------------------------------------------


def test_category_graph_save_and_load_round_trip(tmp_path):
    graph = build_category_graph(['dog', 'cat', 'cup'], parents=TREE, triples=[('cup', 'near', 'dog')], pe_dim=3)
    graph.save(tmp_path / 'graph.safetensors')
    again = CategoryGraph.load(tmp_path / 'graph.safetensors')
    assert (again.names, again.num_classes, again.relations) == (graph.names, graph.num_classes, graph.relations)
    for name in ('edge_index', 'edge_type', 'edge_weight', 'pe', 'below'):
        assert torch.equal(getattr(again, name), getattr(graph, name))


def test_category_graph_load_bad_file_raises(tmp_path):
    with pytest.raises(InputError, match='no such category graph; make one with tools/build_category_graph.py'):
        CategoryGraph.load(tmp_path / 'absent.safetensors')
    (tmp_path / 'text.safetensors').write_text('not one')
    with pytest.raises(InputError, match='not a readable safetensors file'):
        CategoryGraph.load(tmp_path / 'text.safetensors')
    save_file(dict(x=torch.zeros(1)), tmp_path / 'other.safetensors')
    with pytest.raises(InputError, match='not a category graph of dinor1'):
        CategoryGraph.load(tmp_path / 'other.safetensors')


def test_category_graph_find_ignores_case_and_underscores():
    graph = build_category_graph(['Hot dog', 'traffic_light', 'hot_dog'], parents={'Hot dog': 'food'})
    assert graph.find(['hot dog', 'Traffic Light', 'food', 'kite', None, ' hot  dog ']) == [0, 1, -1, -1, -1, 0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(names=('a', 'a', 'b', 'c', 'd')), "'a' is the name of two nodes"),
        (dict(num_classes=6), r'num_classes=6; must be in \[0, 5\]'),
        (dict(edge_type=torch.zeros(3, dtype=torch.long)), r'edge_index: expected \(2, 3\), got \(2, 8\)'),
        (dict(edge_index=torch.full((2, 8), 5)), r'edge_index holds indices outside of \[0, 5\)'),
        (dict(edge_type=torch.full((8,), 4)), r'edge_type holds indices outside of \[0, 4\)'),
        (dict(pe=torch.zeros(4, 2)), r'pe: expected \(5, k\), got \(4, 2\)'),
        (dict(relations=('is_a',)), 'relations must begin with hypernym, hyponym'),
    ],
)
def test_category_graph_bad_fields_raise(change, message):
    graph = build_category_graph(['dog', 'cat', 'cup'], parents=TREE)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(graph, **change)


# Completion -------------------------------------------------------------------------------------------------


def clique_graph(size=6, groups=3) -> tuple[CategoryGraph, set]:
    """Groups of classes that all occur together, except for one unseen pair per group."""
    names = [f'{g}{i}' for g in range(groups) for i in range(size)]
    pairs = [(a, b) for a in names for b in names if a < b and a[0] == b[0]]
    missing = {(f'{g}0', f'{g}1') for g in range(groups)}
    triples = [(a, 'co_occurs', b) for a, b in pairs if (a, b) not in missing]
    return build_category_graph(names, triples=triples, pe_dim=4), missing


def test_complete_category_graph_adds_missing_edges_both_ways():
    graph, missing = clique_graph()
    torch.manual_seed(0)
    nfe = NFE(len(graph.names), len(graph.relations), 16)
    fit(nfe, graph_triples(graph), epochs=60, lr=0.05)
    denser = complete_category_graph(graph, 'co_occurs', nfe, topk=1, min_prob=0.0)
    new = edges(denser, 'co_occurs') - edges(graph, 'co_occurs')
    assert new == {(b, a) for a, b in new}
    # Each class gets one of 13 possible new partners.
    assert missing <= new
    assert len(denser.edge_type) == len(graph.edge_type) + len(new)
    assert (denser.edge_weight[len(graph.edge_type) :] < 1).all()
    # The Laplacian code is that of the denser graph.
    assert denser.pe.shape == graph.pe.shape
    assert not torch.allclose(denser.pe.abs(), graph.pe.abs())
    assert torch.equal(denser.pe, denser.with_encoding().pe)


def test_complete_category_graph_adds_inverse_of_new_parent():
    graph = build_category_graph(['dog', 'cat', 'cup'], parents=TREE)
    nfe = NFE(5, 4, 4)
    denser = complete_category_graph(graph, 'hypernym', nfe, topk=1, min_prob=0.0)
    for relation, inverse in (('hypernym', 'hyponym'), ('hyponym', 'hypernym')):
        assert edges(denser, relation) >= {(b, a) for a, b in edges(graph, inverse)}
    assert {(b, a) for a, b in edges(denser, 'hypernym')} == edges(denser, 'hyponym')


def test_held_out_ranking_beats_chance():
    graph, _ = clique_graph(size=8)
    result = held_out_ranking(graph, share=0.15, epochs=60, lr=0.05, dim=16)
    pairs = len(edges(graph, 'co_occurs')) // 2
    # A pair has two edges, an edge two queries.
    assert len(result['ranks']) == 4 * round(0.15 * pairs)
    assert result['mrr'] > 2 * result['chance']
    assert result['chance'] == pytest.approx(sum(1 / i for i in range(1, 25)) / 24)
    again = held_out_ranking(graph, share=0.15, epochs=60, lr=0.05, dim=16)
    assert torch.equal(result['ranks'], again['ranks'])
    with pytest.raises(ValueError, match='cannot hold out 0.1 of 0 linked pairs'):
        held_out_ranking(build_category_graph(['a', 'b']))


# The tool ---------------------------------------------------------------------------------------------------


@pytest.fixture
def build(repo, monkeypatch, capsys):
    def run(*arguments) -> str:
        spec = importlib.util.spec_from_file_location('build_tool', repo / 'tools/build_category_graph.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, 'argv', ['build_category_graph.py', *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return run


def test_build_tool_on_annotation_file(build, tmp_path):
    # Write training annotations and another list of classes.
    (tmp_path / 'train.json').write_text(json.dumps(annotation_file()))
    novel = dict(categories=[dict(id=1, name='d'), dict(id=2, name='a')])
    (tmp_path / 'novel.json').write_text(json.dumps(novel))
    out = tmp_path / 'graph.safetensors'
    arguments = (tmp_path / 'train.json', '--names-of', tmp_path / 'novel.json', '--out', out)
    # Build the graph and check it.
    said = build(*arguments, '--wordnet', 'no')
    graph = CategoryGraph.load(out)
    assert graph.names == ('a', 'b', 'c', 'd', 'x')
    assert graph.num_classes == 4
    assert edges(graph, 'co_occurs') == {('a', 'b'), ('b', 'a')}
    assert edges(graph, 'hypernym') == {('c', 'x')}
    assert '4 classes, 1 parents' in said
    assert '1 classes have no edge' in said
    # Build it without co-occurrence.
    build(*arguments, '--wordnet', 'no', '--no-images')
    assert not edges(CategoryGraph.load(out), 'co_occurs')
    with pytest.raises(InputError, match='expected a file name that ends in .safetensors'):
        build(tmp_path / 'train.json', '--out', tmp_path / 'graph.pt')


def test_build_tool_with_and_without_wordnet(build, fake_nltk, tmp_path, monkeypatch):
    categories = [dict(id=i, name=s.split('.')[0], synset=s) for i, s in enumerate(['dog.n.01', 'wolf.n.01'])]
    (tmp_path / 'train.json').write_text(json.dumps(dict(categories=categories, images=[], annotations=[])))
    out = tmp_path / 'graph.safetensors'
    build(tmp_path / 'train.json', '--out', out)
    assert edges(CategoryGraph.load(out), 'hypernym') == {('dog', 'canine.n.02'), ('wolf', 'canine.n.02')}
    fake_nltk.loaded = False
    assert 'Without the hierarchy of the synsets' in build(tmp_path / 'train.json', '--out', out)
    assert not len(CategoryGraph.load(out).edge_type)
    with pytest.raises(InputError, match='the data of WordNet is missing or incomplete'):
        build(tmp_path / 'train.json', '--out', out, '--wordnet', 'yes')


@pytest.mark.shared
def test_build_tool_on_coco(build, shared_dir, tmp_path):
    out = tmp_path / 'graph.safetensors'
    source = shared_dir / 'data/coco_mini/annotations/train.json'
    said = build(source, '--out', out, '--complete', 'co_occurs', '--nfe', 16, 20, 0.03, '--min-prob', 0.01)
    graph = CategoryGraph.load(out)
    # 12 super-categories, of which "person" is a class.
    assert graph.num_classes == 80
    assert len(graph.names) == 91
    assert ('dog', 'animal') in edges(graph, 'hypernym')
    assert len(edges(graph, 'hypernym')) == 79
    assert ('fork', 'dining table') in edges(graph, 'co_occurs')
    assert 'held-out queries: MRR' in said
    assert 'edges added' in said
