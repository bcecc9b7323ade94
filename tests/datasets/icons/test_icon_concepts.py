"""Names of drawings become concepts; packages that are missing are an error of one line."""

import zipfile

import pytest

from dinor1.datasets.icons import packs
from dinor1.datasets.icons.concepts import group_by_concept, head_words, is_brand, is_sign, normalise, singular
from dinor1.datasets.icons.packs import Drawing, Pack, read_packs, versions
from dinor1.utils.errors import InputError


@pytest.mark.parametrize(
    ('name', 'concept'),
    [
        ('', ''),
        ('bell', 'bell'),
        ('bell-outline', 'bell'),
        ('bell-slash-outline', 'bell off'),
        ('shopping_cart', 'shopping cart'),
        ('user-add', 'account plus'),
        ('outline', ''),
    ],
)
def test_normalise(name, concept):
    assert normalise(name) == concept


def test_head_words_are_the_object_without_modifiers():
    assert head_words('fire truck') == {'fire', 'truck'}
    assert head_words('cart off') == {'cart'}
    assert head_words('carts plus') == head_words('cart')
    # Synonyms have one head word.
    assert head_words('plane') == head_words('airplane')
    # Modifiers alone.
    assert head_words('arrow left') != head_words('left')
    assert head_words('up down') == {'up down'}


@pytest.mark.parametrize(
    ('plural', 'expected'),
    [('cars', 'car'), ('batteries', 'battery'), ('boxes', 'box'), ('glass', 'glass'), ('bus', 'bus'), ('ios', 'ios')],
)
def test_singular(plural, expected):
    assert singular(plural) == expected


def test_letters_numbers_and_brands_are_no_concepts():
    assert is_sign('alpha b')
    assert is_sign('numeric 5')
    assert is_sign('q')
    assert not is_sign('x')
    assert is_brand('github', ())
    assert is_brand('made up', {'made-up'})
    assert not is_brand('cup', {'made-up'})
    drawings = [Drawing('mdi', '', name, '') for name in ('cup', 'cup-outline', 'github', 'alpha-a', 'acme')]
    assert {name: len(group) for name, group in group_by_concept(drawings, {'acme'}).items()} == {'cup': 2}


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """A package with an archive of four drawings, on the path."""
    folder = tmp_path / 'made_icons'
    folder.mkdir()
    (folder / '__init__.py').write_text('raise RuntimeError("a pack is not imported")')
    with zipfile.ZipFile(folder / 'icons.zip', 'w') as archive:
        for name in ('bold/cup-bold.svg', 'bold/acme-logo-bold.svg', 'brands/acorp.svg', 'readme.txt'):
            archive.writestr(name, '<svg/>')
    monkeypatch.syspath_prepend(tmp_path)
    return Pack('phosphor', 'made-icons', 'made_icons', 'icons.zip', 'MIT', ('brands',))


def test_read_packs_leaves_out_logos(pack):
    drawings, brands = read_packs([pack])
    assert [(drawing.key, drawing.svg) for drawing in drawings] == [('phosphor/bold/cup', '<svg/>')]
    assert brands == {'acme', 'acorp'}


def test_read_packs_names_emoji_by_unicode(tmp_path, monkeypatch):
    folder = tmp_path / 'made_emoji' / 'svg'
    folder.mkdir(parents=True)
    for code in ('1F6B2', '2602-FE0F', '1F3FB', '1F468-200D-1F469', 'E000'):
        (folder / f'{code}.svg').write_text('<svg/>')
    monkeypatch.syspath_prepend(tmp_path)
    drawings, _ = read_packs([Pack('openmoji', 'made-emoji', 'made_emoji', 'svg', 'CC-BY-SA-4.0')])
    assert [drawing.name for drawing in drawings] == ['bicycle', 'umbrella']


def test_broken_pack_is_one_line(pack, tmp_path):
    (tmp_path / 'made_icons' / 'icons.zip').write_bytes(b'PK nothing')
    with pytest.raises(InputError, match=r"icons.zip: cannot be read.*pip install 'dinor1\[icons\]'"):
        read_packs([pack])
    with zipfile.ZipFile(tmp_path / 'made_icons' / 'icons.zip', 'w'):
        pass
    with pytest.raises(InputError, match='holds no SVG files'):
        read_packs([pack])


def test_read_packs_names_a_missing_package():
    missing = Pack('none', 'no-such-icons', 'no_such_icons', 'icons.zip', 'MIT')
    for read in (read_packs, versions):
        with pytest.raises(InputError, match=r"no-such-icons: is not installed.*pip install 'dinor1\[icons\]'"):
            read([missing])


def test_packs_have_licences():
    assert len(packs.PACKS) == 7
    assert all(pack.licence for pack in packs.PACKS)
