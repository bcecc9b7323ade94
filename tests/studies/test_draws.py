"""measure_missing_draws: which draws it measures, and the rows that it adds."""

import pytest

from dinor1.studies.draws import measure_missing_draws
from dinor1.studies.results import read_rows


def test_measure_missing_draws_measures_what_the_file_lacks(tmp_path):
    out, calls, lines = tmp_path / 'rows.jsonl', [], []

    def measure(root, num_images, seed):
        calls.append((root, num_images, seed))
        return dict(metrics=dict(AP=0.1 * seed), num_images=num_images)

    measure_missing_draws(out, [('data/a', 3, 0)], measure)
    runs = [('data/a', 3, 0), ('data/a', 3, 1), ('data/b', 3, 0)]
    measure_missing_draws(out, runs, measure, lines.append)
    assert calls == runs
    rows = read_rows(out)
    assert [(row['arm'], row['seed'], row['set'], row['num_images']) for row in rows] == [
        ('a/3', 0, 'a', 3),
        ('a/3', 1, 'a', 3),
        ('b/3', 0, 'b', 3),
    ]
    assert [row['metrics']['AP'] for row in rows] == [0, 0.1, 0]
    assert all(row['environment'] for row in rows)
    assert lines == ["a/3, draw 1: {'AP': 0.1}", "b/3, draw 0: {'AP': 0.0}"]


def test_measure_missing_draws_keeps_the_rows_before_an_error(tmp_path):
    def measure(root, num_images, seed):
        if seed:
            raise RuntimeError('interrupted')
        return dict(metrics=dict(AP=0.5))

    with pytest.raises(RuntimeError, match='interrupted'):
        measure_missing_draws(tmp_path / 'rows.jsonl', [('a', 1, 0), ('a', 1, 1)], measure)
    assert [row['seed'] for row in read_rows(tmp_path / 'rows.jsonl')] == [0]


def test_measure_missing_draws_of_nothing_writes_no_file(tmp_path):
    measure_missing_draws(tmp_path / 'rows.jsonl', [], lambda root, num_images, seed: {})
    assert not (tmp_path / 'rows.jsonl').exists()
