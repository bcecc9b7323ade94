"""Class names in a text, and names that mean one class."""

import pytest

from dinor1.inference.class_names import split_text
from dinor1.utils.class_names import check_class_name, class_key, distinct_names
from dinor1.utils.errors import InputError


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('', []),
        (' . ', []),
        ('.', []),
        ('cat', ['cat']),
        ('cat.', ['cat']),
        ('cat . dog', ['cat', 'dog']),
        ('cat . dog .', ['cat', 'dog']),
        ('cat . red  dog.', ['cat', 'red dog']),
        ('a cat. a remote control.', ['a cat', 'a remote control']),
        ('cat.\ndog.', ['cat', 'dog']),
        # Initials and other dots within names.
        ('U.S. flag . t-shirt', ['U.S. flag', 't-shirt']),
        ('U.S. flag', ['U.S. flag']),
        ('U.S.', ['U.S.']),
        ('cat . U.S.', ['cat', 'U.S.']),
        ('a U.S. flag. a t-shirt.', ['a U.S. flag', 'a t-shirt']),
        ('George W. Bush. dog', ['George W. Bush', 'dog']),
        ('cat. -U.S. flag', ['cat', '-U.S. flag']),
        ('St. Bernard . dog', ['St. Bernard', 'dog']),
        ('model no. 5 .', ['model no. 5']),
        ('a.b', ['a.b']),
        ('version 1.5', ['version 1.5']),
        # Several spellings of a class.
        ('cat . Cat . CAT', ['cat']),
        ('Cat . dog . cat . Dog', ['Cat', 'dog']),
    ],
)
def test_split_text_gives_distinct_names(text, names):
    assert split_text(text) == names


def test_split_text_rejects_invalid_unicode():
    with pytest.raises(InputError, match=r"the class name 'a\\udcff' is not valid Unicode"):
        split_text('cat . a\udcff')


@pytest.mark.parametrize(
    ('text', 'advice'),
    [
        ('person,car', 'person . car'),
        ('person, car;dog.', 'person . car . dog'),
        ('人、车', '人 . 车'),
        ('person, old . car', None),
        ('person', None),
    ],
)
def test_split_text_warns_of_commas_in_a_single_class(logged_warnings, text, advice):
    split_text(text)
    messages = logged_warnings()
    assert len(messages) == (advice is not None)
    if advice:
        assert 'is one class' in messages[0]
        assert repr(advice) in messages[0]


def test_class_key_ignores_case_blanks_and_composition():
    assert len({class_key(name) for name in ('a', 'A', 'a ', ' a')}) == 1
    assert len({class_key(name) for name in ('Café au lait', 'cafe\u0301  AU lait')}) == 1
    assert len({class_key(name) for name in ('a', 'b', 'a b', 'ab', 'a-b')}) == 5


def test_distinct_names_keeps_the_first_spelling():
    assert distinct_names([]) == []
    assert distinct_names([' Cat', 'dog', 'cat ', 'DOG', 'cow']) == ['Cat', 'dog', 'cow']


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (0, "image 3: 0 is not a class name; give a text, such as '0'"),
        (None, 'is not a class name'),
        (b'cat', 'is not a class name'),
        ('', 'an empty class name'),
        (' \t', 'an empty class name'),
        ('\udcff', 'not valid Unicode'),
        (chr(0xD800), 'not valid Unicode'),
    ],
)
def test_check_class_name_rejects_invalid_names(name, message):
    with pytest.raises(InputError, match=message):
        check_class_name(name, 'image 3')


def test_check_class_name_removes_blanks():
    assert check_class_name(' red cat ', 'image 3') == 'red cat'
