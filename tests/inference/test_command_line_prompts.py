"""Prompts on the command line: valid arguments, and error messages of invalid arguments."""

import pytest

from dinor1.inference.command_line_prompts import gather_prompts, parse_box, parse_text
from dinor1.utils.errors import InputError


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        ('ref.jpg:1,2,3,4', ('ref.jpg', (1, 2, 3, 4), 'object', False)),
        ('ref.jpg:1,2,3,4:', ('ref.jpg', (1, 2, 3, 4), 'object', False)),
        ('ref.jpg: 1.5, 2, 3e1 ,4 : red cat', ('ref.jpg', (1.5, 2, 30, 4), 'red cat', False)),
        (r'C:\data\ref.jpg:1,2,3,4:cat', (r'C:\data\ref.jpg', (1, 2, 3, 4), 'cat', False)),
        (r'C:\data\ref.jpg:1,2,3,4', (r'C:\data\ref.jpg', (1, 2, 3, 4), 'object', False)),
        ('a:b,c/1,2,3,4.jpg:1,2,3,4:x', ('a:b,c/1,2,3,4.jpg', (1, 2, 3, 4), 'x', False)),
        ('ref.jpg:1,2,3,4:-dog', ('ref.jpg', (1, 2, 3, 4), 'dog', True)),
        ('ref.jpg:1,2,3,4:-', ('ref.jpg', (1, 2, 3, 4), 'not object', True)),
        ('-ref.jpg:1,2,3,4:dog', ('ref.jpg', (1, 2, 3, 4), 'dog', True)),
        ('-ref.jpg:1,2,3,4', ('ref.jpg', (1, 2, 3, 4), 'not object', True)),
        ('./-ref.jpg:1,2,3,4', ('./-ref.jpg', (1, 2, 3, 4), 'object', False)),
        ('ref.jpg:12,34.5', ('ref.jpg', (12, 34.5), 'object', False)),
        ('ref.jpg:12,34.5:cat', ('ref.jpg', (12, 34.5), 'cat', False)),
        ('ref.jpg:12,34.5:-cat', ('ref.jpg', (12, 34.5), 'cat', True)),
        ('ref.jpg:1,2,3,4:5,6', ('ref.jpg', (1, 2, 3, 4), '5,6', False)),
        ('ref.jpg:-0.5,2,3,4', ('ref.jpg', (-0.5, 2, 3, 4), 'object', False)),
    ],
)
def test_parse_box_reads_valid_arguments(argument, expected):
    assert parse_box(argument) == expected


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('', 'expected REF.jpg:x1,y1,x2,y2'),
        ('-', 'expected REF.jpg:x1,y1,x2,y2'),
        ('ref.jpg', 'expected REF.jpg:x1,y1,x2,y2'),
        ('ref.jpg:cat', 'expected REF.jpg:x1,y1,x2,y2'),
        (':1,2,3,4', 'expected REF.jpg:x1,y1,x2,y2'),
        ('1,2,3,4:cat', 'expected REF.jpg:x1,y1,x2,y2'),
        ('ref.jpg:1,2,3', 'expected REF.jpg:x1,y1,x2,y2'),
        ('ref.jpg:1,2,3,4,5:cat', 'expected REF.jpg:x1,y1,x2,y2'),
        ('ref.jpg:1,2,x,4:cat', 'not four numbers'),
        ('ref.jpg:1,2,,4', 'not four numbers'),
        ('ref.jpg:1,2,inf,4', 'not four finite numbers'),
        ('ref.jpg:3,2,1,4', 'has no area'),
        ('ref.jpg:0.1,0.2,0.6,0.7:cat', 'boxes are pixels x1,y1,x2,y2, and all numbers .* --normalized'),
        ('ref.jpg:0,0,1,1', 'boxes are pixels x1,y1,x2,y2'),
        ('ref.jpg:0.1,0.2:cat', 'points are pixels x,y, and both numbers .* multiply them by width and height'),
        ('ref.jpg:10,10,10.3,40', 'thinner than 1 pixel'),
        ('ref.jpg:True,False,5,5', 'not four numbers'),
        ('ref.jpg:1,2,3,4:a\udcff', 'not valid Unicode'),
    ],
)
def test_parse_box_rejects_invalid_arguments(argument, message):
    with pytest.raises(InputError, match=message) as error:
        parse_box(argument)
    assert f'--prompt {argument}' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('argument', 'names', 'negative'),
    [
        ('', [], []),
        ('cat', ['cat'], []),
        ('cat . red dog . -wolf', ['cat', 'red dog'], ['wolf']),
        ('- wolf.', [], ['wolf']),
        ('a cat. -a wolf.', ['a cat'], ['a wolf']),
    ],
)
def test_parse_text_separates_negative_names(argument, names, negative):
    assert parse_text(argument) == (names, negative)


def test_gather_prompts_of_no_argument_is_empty():
    assert gather_prompts() == dict(visual=[], text=[], negative=[])


def test_gather_prompts_groups_boxes_by_image():
    prompts = gather_prompts(
        ['b.jpg:1,2,3,4:cat', 'a.jpg:1,2,3,4:cat', 'b.jpg:5,6,7,8:-dog'], ['a.jpg:5,6,7,8'], 'cat . -cow'
    )
    assert [prompt[:4] for prompt in prompts['visual']] == [
        ('b.jpg', [(1, 2, 3, 4), (5, 6, 7, 8)], ['cat', 'dog'], False),
        ('a.jpg', [(1, 2, 3, 4), (5, 6, 7, 8)], ['cat', 'not object'], False),
    ]
    assert prompts['text'] == ['cat', 'cow']
    assert prompts['negative'] == ['dog', 'not object', 'cow']


@pytest.mark.parametrize(
    'arguments',
    [
        (['a.jpg:1,2,3,4:cat', 'a.jpg:5,6,7,8:-cat'],),
        (['a.jpg:1,2,3,4:cat'], ['a.jpg:5,6,7,8:cat']),
        (['a.jpg:1,2,3,4:cat'], [], '-cat'),
        ([], ['a.jpg:5,6,7,8:cat'], 'cat'),
        ([], [], 'cat . -cat'),
        (['a.jpg:1,2,3,4:Cat'], [], '-cat'),
    ],
)
def test_gather_prompts_rejects_a_class_that_is_positive_and_negative(arguments):
    with pytest.raises(InputError, match="'cat' is given as positive and as negative"):
        gather_prompts(*arguments)


def test_gather_prompts_accepts_normalized_boxes():
    prompts = gather_prompts(['a.jpg:0.1,0.2,0.6,0.7:cat'], ['a.jpg:0,0,1,1'], normalized=True)
    (visual,) = prompts['visual']
    assert visual[:4] == ('a.jpg', [(0.1, 0.2, 0.6, 0.7), (0, 0, 1, 1)], ['cat', 'not object'], True)
    with pytest.raises(InputError, match='is not within 0..1'):
        gather_prompts(['a.jpg:10,20,60,70'], normalized=True)


def test_parse_text_rejects_a_minus_without_a_name():
    with pytest.raises(InputError, match='a - without a name'):
        parse_text('cat . -')
