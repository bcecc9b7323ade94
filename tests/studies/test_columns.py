"""Columns of lists of records: no loss, and each key once."""

import json

import pytest

from dinor1.studies.columns import from_columns, to_columns

VALUES = [
    [],
    {},
    [{}],
    [{}, {'x': 1}],
    [1, [2, {'x': 3}], None, 'text'],
    [{'x': 1}, {'x': 2}, {'y': 3}, {'x': 4}],
    [{'a': {'b': 1.5}}, {'a': {'b': 2.5}}, {'a': {'c': 3}}],
    {'runs': [{'set': 'base', 'metrics': {'AP': 0.1}}, {'set': 'base', 'n': 1, 'metrics': {'AP': 0.2}}]},
    {'curve': [[50, 2.0], [100, 1e-09]]},
    [[{'x': []}, {'x': [{'y': 1}]}]],
]


@pytest.mark.parametrize('value', VALUES, ids=json.dumps)
def test_from_columns_inverts_to_columns(value):
    columns = json.loads(json.dumps(to_columns(value)))
    assert json.dumps(from_columns(columns), sort_keys=True) == json.dumps(value, sort_keys=True)


def test_to_columns_writes_each_key_once():
    points = [{'iter': i, 'norm': {'class': i / 3, 'box': i / 7}} for i in range(5)]
    text = json.dumps(to_columns(points))
    assert all(text.count(f'"{key}"') == 1 for key in ('iter', 'norm', 'class', 'box'))


@pytest.mark.parametrize('value', [{'$columns': 1}, [{'$columns': 1}]])
def test_to_columns_rejects_reserved_key(value):
    with pytest.raises(ValueError, match='reserved'):
        to_columns(value)


def test_from_columns_rejects_different_lengths():
    with pytest.raises(ValueError, match='argument'):
        from_columns({'$columns': [{'x': [1], 'y': [1, 2]}]})
