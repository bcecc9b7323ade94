"""validate_dataset: the sources of a federated file."""

import pytest

from tests.annotations.samples import edit, make_content, save


def make_federated() -> dict:
    """Images of two sources."""
    content = make_content()
    content['sources'] = [
        dict(name='fruit', exhaustive_category_ids=[1, 2]),
        dict(name='plums', exhaustive_category_ids=[3]),
    ]
    for i, image in enumerate(content['images']):
        image['source'] = ('fruit', 'plums')[i % 2]
    return content


def test_federated_file_without_defects(validate, root):
    outcome = validate(save(root, make_federated()))
    assert outcome.status == 0
    assert 'no defects' in outcome.out


@pytest.mark.parametrize(
    ('damage', 'shown'),
    [
        (edit('sources', 1, exhaustive_category_ids=[3, 9]), "source 'plums': exhaustive_category_ids has 9, which is"),
        (
            edit('sources', 1, exhaustive_category_ids='3'),
            "exhaustive_category_ids must be a list of category ids, got '3'",
        ),
        (edit('images', 2, source='nuts'), "image 3 has the source 'nuts', which is not in 'sources'"),
        (lambda c: c['images'][2].pop('source'), 'image 3 has the source None'),
        (lambda c: c.update(sources='fruit'), "'sources' must be a list of objects with a 'name'"),
    ],
)
def test_defect_of_sources_is_found(validate, root, damage, shown):
    content = make_federated()
    damage(content)
    outcome = validate(save(root, content))
    assert outcome.status == 1
    assert 'error: invalid source' in outcome.out
    assert shown in outcome.out
    # A repair could not know the right source.
    repaired = root / 'repaired.json'
    assert validate(save(root, content), '--fix', repaired).status != 0
    assert not repaired.exists()
