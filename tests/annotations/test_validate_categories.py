"""validate_dataset: defects of category ids and names."""

import pytest

from dinor1.annotations.categories import differences, numbering_error, usage_warnings
from dinor1.annotations.instances import box_form
from tests.annotations.samples import make_content


@pytest.mark.parametrize(
    ('known', 'used', 'kind'),
    [
        ({1, 2, 3}, {1, 2, 3}, None),
        ({1, 2, 3}, {2}, None),
        ({1, 2, 3}, set(), None),
        ({1, 2, 3}, {0, 1, 2}, 'category ids off by one'),
        ({0, 1, 2}, {1, 2, 3}, 'category ids off by one'),
        ({1}, {0}, 'category ids off by one'),
        # A single unknown id is an error of its annotation: the others may be right.
        ({1, 2, 3}, {1, 2, 3, 99}, None),
        ({1, 2, 3}, {0, 1, 2, 3}, None),
        # COCO: ids up to 90 for 80 categories.
        ({*range(1, 12), *range(13, 26)}, set(range(24)), 'category ids are positions'),
        ({2, 5, 9}, {1, 2, 3}, 'category ids are positions'),
        ({2, 9, 50}, {50, 99, 9}, None),
        ({2, 9, 50}, {50, 99, 98}, 'category ids of another list'),
        ({'1', 2}, {1, 3, 4}, None),
    ],
)
def test_numbering_error_recognises_wrong_ids(known, used, kind):
    finding = numbering_error(known, used)
    assert (finding and finding.kind) == kind


def test_last_class_used_by_another_split_gives_no_warning():
    categories = make_content()['categories']
    assert [f.kind for f in usage_warnings(categories, {1, 2})] == ['first or last class empty']
    assert [f.kind for f in usage_warnings(categories, {1, 2}, {'plum'})] == ['empty class']
    assert list(usage_warnings(categories, {1, 2, 3})) == []


def test_differences_of_no_files_are_empty():
    assert differences({}) == {}
    assert differences({'a': {'x': 1}, 'b': {'y': 2}}) == {}
    assert '1 is' in differences({'a': {'x': 1}, 'b': {'y': 1}})['b'].detail


def test_box_form_needs_enough_boxes():
    sizes = {1: (100, 100)}
    one = [dict(id=i, image_id=1, category_id=1, bbox=[60, 60, 70, 70]) for i in range(9)]
    assert box_form([], sizes) is None
    assert box_form(one, sizes) is None
    assert box_form([*one, one[0]], sizes).kind == 'boxes are corners'
    # One box is not a pair of corners: the boxes are not all corners, and some are wrong.
    assert box_form([*one, one[0] | {'bbox': [60, 60, 10, 10]}], sizes) is None
