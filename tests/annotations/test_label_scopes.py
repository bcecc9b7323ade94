"""Scope of the annotations of an image, by sources, LVIS's lists or file; and the choice of categories."""

import pytest

from dinor1.annotations.category_choice import choose_categories, read_category_names
from dinor1.annotations.federated import LabelScope, label_scopes
from dinor1.utils.errors import InputError


def scope(annotated, exhaustive) -> LabelScope:
    return LabelScope(frozenset(annotated), frozenset(exhaustive))


def content(**image) -> dict:
    """One image with boxes of categories 1 and 2, and a crowd of 4; categories 1 to 5."""
    boxes = [dict(image_id=7, category_id=id, iscrowd=int(id == 4)) for id in (1, 2, 4)]
    return dict(
        images=[dict(id=7) | image],
        annotations=boxes,
        categories=[dict(id=id, name=f'class {id}') for id in (5, 1, 2, 3, 4)],
    )


def with_sources(**image) -> dict:
    sources = [
        dict(name='first', exhaustive_category_ids=[1, 2, 3, 4]),
        dict(name='second', exhaustive_category_ids=[5]),
    ]
    return content(**image) | dict(sources=sources)


def test_scope_without_sources_or_lists_is_all_categories():
    assert label_scopes(content(), 'f.json') == {7: scope({1, 2, 3, 4, 5}, {1, 2, 3, 5})}
    assert label_scopes(content(), 'f.json', True) == {7: scope({1, 2, 3, 4, 5}, ())}


def test_scope_is_that_of_the_image_source():
    assert label_scopes(with_sources(source='first'), 'f.json') == {7: scope({1, 2, 3, 4}, {1, 2, 3})}
    # Boxes of categories that the source does not list are positives too.
    assert label_scopes(with_sources(source='second'), 'f.json') == {7: scope({1, 2, 4, 5}, {5})}


def test_scope_of_sources_that_miss_instances_is_not_exhaustive():
    scopes = label_scopes(with_sources(source='first', neg_category_ids=[3]), 'f.json', ['first'])
    assert scopes == {7: scope({1, 2, 3, 4}, {3})}
    assert label_scopes(with_sources(source='second'), 'f.json', ['first']) == {7: scope({1, 2, 4, 5}, {5})}


def test_scope_follows_lvis_lists():
    data = content(neg_category_ids=[5], not_exhaustive_category_ids=[2])
    assert label_scopes(data, 'f.json') == {7: scope({1, 2, 4, 5}, {1, 5})}


@pytest.mark.parametrize(
    ('data', 'not_exhaustive', 'message'),
    [
        (with_sources(source='third'), False, "image 7 has the source 'third', which is not in 'sources'"),
        (with_sources(), False, 'image 7 has the source None'),
        (with_sources(source='first'), ['third'], "the source 'third', but the file has first, second"),
        (content(), ['third'], "the source 'third', but the file has none"),
        (content(neg_category_ids=[6]), False, 'neg_category_ids has 6, which is not a category'),
        (content(neg_category_ids=3), False, 'neg_category_ids must be a list of category ids, got 3'),
        (content() | dict(sources=[3]), False, "'sources' must be a list of objects with a 'name'"),
        (content() | dict(sources=[dict(name='a', exhaustive_category_ids=['x'])]), False, "'a': .* has 'x'"),
    ],
)
def test_contradictory_scopes_are_errors(data, not_exhaustive, message):
    with pytest.raises(InputError, match=message) as error:
        label_scopes(data, 'f.json', not_exhaustive)
    assert str(error.value).startswith('f.json: ')


def two_images() -> dict:
    data = content()
    return data | dict(images=[dict(id=7), dict(id=8)])


def test_choose_and_exclude_categories_partition_a_file():
    listed = ['class 4', 'class 3']
    assert choose_categories(two_images(), 'f.json', listed, exclude=True) == (('class 1', 'class 2', 'class 5'), {8})
    assert choose_categories(two_images(), 'f.json', listed, exclude=False) == (('class 3', 'class 4'), {7})


def test_shared_list_may_have_categories_of_other_files():
    listed = ['class 4', 'another']
    choice = choose_categories(two_images(), 'f.json', listed, exclude=False, shared=True)
    assert choice == (('class 4',), {7})
    with pytest.raises(InputError, match="no category is named 'another'"):
        choose_categories(two_images(), 'f.json', listed, exclude=False)
    with pytest.raises(InputError, match="no category is named 'another'"):
        choose_categories(two_images(), 'f.json', listed[1:], exclude=False, shared=True)


@pytest.mark.parametrize(
    ('listed', 'exclude', 'message'),
    [
        (['clas 1'], True, "no category is named 'clas 1'"),
        ([f'class {i}' for i in range(1, 6)], True, 'leaving out the 5 listed categories leaves no category'),
        (['class 3'], False, 'choosing the 1 listed categories leaves no image'),
    ],
)
def test_choose_categories_rejects_unknown_or_empty_choice(listed, exclude, message):
    with pytest.raises(InputError, match=message):
        choose_categories(two_images(), 'f.json', listed, exclude)


def test_read_category_names_reads_both_formats(tmp_path):
    path = tmp_path / 'names.txt'
    path.write_text('# id<TAB>name\n36\tcereal (grocery package)\t207\n\nbook\n')
    assert read_category_names(str(path)) == ['cereal (grocery package)', 'book']
    path.write_text('# nothing\n')
    with pytest.raises(InputError, match='names no category'):
        read_category_names(str(path))
    with pytest.raises(InputError, match='nowhere.txt: cannot be read'):
        read_category_names(str(tmp_path / 'nowhere.txt'))
