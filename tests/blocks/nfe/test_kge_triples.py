"""Reading triples: valid files, every kind of invalid file, and the filter compared with sets."""

import gzip

import pytest
import torch

from dinor1.blocks.nfe import KnownTails, TripleDataset, Vocabulary, with_reciprocals
from dinor1.blocks.nfe.triples import read_triples
from dinor1.utils.errors import InputError

GOOD = {
    'train': 'ant\teats\tleaf\nbee\teats\tnectar\nbee\tlikes\tant\n',
    'valid': 'ant\tlikes\tbee\n',
    'test': 'cow\teats\tleaf\nbee\teats\tleaf\n',
}


def write(folder, **files):
    for name, text in (GOOD | files).items():
        (folder / f'{name}.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_read_sorts_names(tmp_path):
    data = TripleDataset.read(write(tmp_path))
    assert list(data.entities) == ['ant', 'bee', 'cow', 'leaf', 'nectar']
    assert list(data.relations) == ['eats', 'likes']
    assert data.train.tolist() == [[0, 0, 3], [1, 0, 4], [1, 1, 0]]
    assert data.valid.tolist() == [[0, 1, 1]]
    assert data.test.tolist() == [[2, 0, 3], [1, 0, 3]]
    assert data.train.dtype == torch.long


@pytest.mark.parametrize('change', [str.encode, lambda s: s.replace('\n', '\r\n').encode(), lambda s: s[:-1].encode()])
@pytest.mark.parametrize('compress', [False, True])
def test_read_ignores_line_ends_and_compression(tmp_path, change, compress):
    expected = TripleDataset.read(write(tmp_path))
    for name, text in GOOD.items():
        (tmp_path / f'{name}.txt').unlink()
        data = change(text)
        path = tmp_path / f'{name}.txt{".gz" if compress else ""}'
        path.write_bytes(gzip.compress(data) if compress else data)
    read = TripleDataset.read(tmp_path)
    assert (read.entities, read.relations) == (expected.entities, expected.relations)
    for split in GOOD:
        assert torch.equal(getattr(read, split), getattr(expected, split))


def test_read_triples_keeps_unusual_characters(tmp_path):
    # Freebase's relations have slashes and dots; a Unicode line separator is part of a name.
    path = tmp_path / 'train.txt'
    path.write_text('/m/027rn\t/location/country./a/b\t/m/06cx9\nx y\tr\u2028s\tz \n', encoding='utf-8')
    assert read_triples(path) == [('/m/027rn', '/location/country./a/b', '/m/06cx9'), ('x y', 'r\u2028s', 'z ')]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'train.txt: empty; expected a triple per line'),
        ('\n\n', 'train.txt: empty'),
        ('3\nant\teats\tleaf\n', 'line 1: expected head, relation and tail separated by tabs, found 1 field in'),
        ('ant\teats\tleaf\nant eats leaf\n', "line 2: .* found 1 field in 'ant eats leaf'; correct the line"),
        ('ant\teats\tleaf\t1\n', 'line 1: .* found 4 fields'),
        ('ant\teats\tleaf\n\nbee\teats\tleaf\n', 'line 2: .* found 1 field'),
        ('ant\t\tleaf\n', 'line 1: an empty name'),
        (b'ant\teats\tle\xff\n', r'not UTF-8 text \(byte 11\); convert or download it again'),
    ],
)
def test_read_triples_malformed_file_raises(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        TripleDataset.read(write(tmp_path, train=content))
    assert str(tmp_path / 'train.txt') in str(caught.value)
    assert '\n' not in str(caught.value)


def test_read_triples_shortens_long_lines_in_messages(tmp_path):
    with pytest.raises(InputError) as caught:
        TripleDataset.read(write(tmp_path, valid='x' * 10_000))
    assert len(str(caught.value)) < len(str(tmp_path)) + 250


def test_read_triples_damaged_archive_raises(tmp_path):
    write(tmp_path)
    packed = gzip.compress(GOOD['test'].encode() * 100)
    (tmp_path / 'test.txt').unlink()
    for damaged in (packed[:-20], b'plain text', packed[:30] + bytes(20) + packed[50:]):
        (tmp_path / 'test.txt.gz').write_bytes(damaged)
        with pytest.raises(InputError, match=r'test.txt.gz: cannot be read \(.*\); download it again'):
            TripleDataset.read(tmp_path)


def test_read_missing_file_raises(tmp_path):
    write(tmp_path)
    (tmp_path / 'valid.txt').unlink()
    with pytest.raises(InputError, match='neither valid.txt nor valid.txt.gz; check the folder'):
        TripleDataset.read(tmp_path)
    with pytest.raises(InputError, match='neither train.txt nor train.txt.gz'):
        TripleDataset.read(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='no such file'):
        read_triples(tmp_path / 'nothing.txt')


def test_read_relation_missing_in_train_raises(tmp_path):
    write(tmp_path, test='cow\teat\tleaf\n')
    with pytest.raises(InputError, match="test.txt, line 1: unknown relation 'eat'; the nearest are 'eats'"):
        TripleDataset.read(tmp_path)


def test_read_given_names_define_vocabulary(tmp_path):
    write(tmp_path)
    names = ['nectar', 'leaf', 'bee', 'ant', 'cow', 'extra']
    data = TripleDataset.read(tmp_path, entities=names, relations=['likes', 'eats'])
    assert data.train.tolist() == [[3, 1, 1], [2, 1, 0], [2, 0, 3]]
    assert len(data.entities) == 6
    with pytest.raises(InputError, match="test.txt, line 1: unknown entity 'cow'; none of 4 names is similar"):
        TripleDataset.read(tmp_path, entities=names[:4])


def test_vocabulary_finds_names():
    names = Vocabulary(['b', 'a'])
    assert names.number('a') == 1
    assert names[1] == 'a'
    assert 'b' in names
    assert 'c' not in names
    assert len(names) == 2
    with pytest.raises(InputError, match="unknown entity 'c'"):
        names.number('c')
    with pytest.raises(InputError, match="relation 'a' is listed twice"):
        Vocabulary(['a', 'b', 'a'], 'relation')


def test_with_reciprocals_follow_their_triples():
    both = with_reciprocals(torch.tensor([[4, 0, 5], [6, 2, 7]]), 3)
    assert both.tolist() == [[4, 0, 5], [5, 3, 4], [6, 2, 7], [7, 5, 6]]
    assert with_reciprocals(torch.empty(0, 3, dtype=torch.long), 3).shape == (0, 3)


# The filter ------------------------------------------------------------------------------------------------


def random_triples(count, num_entities=9, num_relations=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (num_entities, num_relations, num_entities)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in sizes], 1)


@pytest.mark.parametrize('count', [0, 1, 100])
def test_known_tails_equal_dict_of_sets(count):
    triples = random_triples(count)
    expected = {}
    for head, relation, tail in triples.tolist():
        expected.setdefault((head, relation), set()).add(tail)
    known = KnownTails(triples, 9, 4)
    # All queries in a shuffled order, one of them twice.
    queries = torch.cartesian_prod(torch.arange(9), torch.arange(4))[torch.randperm(36)]
    queries = torch.cat([queries, queries[:1]])
    rows, tails = known.lookup(*queries.unbind(1))
    mask = known.mask(*queries.unbind(1))
    for i, (head, relation) in enumerate(queries.tolist()):
        wanted = sorted(expected.get((head, relation), ()))
        assert tails[rows == i].tolist() == wanted
        assert mask[i].nonzero().flatten().tolist() == wanted
    assert rows.tolist() == sorted(rows.tolist())


def test_filter_has_all_splits_and_both_directions(tmp_path):
    data = TripleDataset.read(write(tmp_path))
    known = data.filter()
    number = data.entities.number
    _, tails = known.lookup(torch.tensor([number('bee')]), torch.tensor([0]))
    assert tails.tolist() == [number('leaf'), number('nectar')]
    # Who eats leaves? Ants (train), bees and cows (test).
    _, heads = known.lookup(torch.tensor([number('leaf')]), torch.tensor([0 + 2]))
    assert heads.tolist() == [number('ant'), number('bee'), number('cow')]


@pytest.mark.parametrize(
    ('triples', 'message'),
    [
        (torch.zeros(3, 2, dtype=torch.long), r'must be \(n, 3\) int64, got \(3, 2\)'),
        (torch.zeros(3, 3), 'int64, got .* torch.float32'),
        (torch.tensor([[0, 4, 0]]), 'outside of 9 entities and 4 relations'),
        (torch.tensor([[-1, 0, 0]]), 'outside of 9 entities'),
    ],
)
def test_known_tails_invalid_triples_raise(triples, message):
    with pytest.raises(ValueError, match=message):
        KnownTails(triples, 9, 4)


@pytest.mark.shared
def test_read_wn18rr_has_published_size(shared_dir):
    data = TripleDataset.read(shared_dir / 'data/wn18rr')
    assert (len(data.entities), len(data.relations)) == (40_943, 11)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [86_835, 3_034, 3_134]
