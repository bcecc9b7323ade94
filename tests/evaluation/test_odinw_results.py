"""Averages of ODinW compared with hand computation, and result files that cannot be used."""

import json

import pytest

from dinor1.evaluation.odinw.benchmark import members
from dinor1.evaluation.odinw.summary import average, read_result, read_results, summarize
from dinor1.evaluation.odinw.tables import tables
from dinor1.utils.errors import InputError


def result(name, ap, seed=0, member='same', protocol='visual-generic', arm='zero-shot', deviation=None, **other):
    settings = dict(protocol=protocol) | (dict(num_exemplars=16) if protocol == 'visual-generic' else {})
    return dict(
        arm=arm,
        seed=seed,
        config='config.py',
        checkpoint='model.pth',
        command='python tools/test.py',
        metrics=dict(AP=ap, AP50=min(1, 2 * ap)),
        environment={},
        set=name,
        member=name if member == 'same' else member,
        layout='odinw' if deviation is None else 'small',
        deviation=deviation,
        split='test',
        split_policy='test',
        num_images=5,
        num_boxes=9,
        protocol=settings,
    ) | dict(other)


def only(summaries):
    (summary,) = summaries
    return summary


# Averages --------------------------------------------------------------------------------------------------


def test_complete_average_has_name_of_benchmark():
    # AP of the i-th set is i / 100: the mean over 35 is 0.17; that over 13 is computed here.
    place = {name: i for i, name in enumerate(members('ODinW-35'))}
    summary = only(summarize([result(name, i / 100) for name, i in place.items()]))
    small, large = summary.averages
    assert (small.benchmark, small.name, small.missing) == ('ODinW-13', 'ODinW-13', ())
    assert (large.benchmark, large.name, large.missing) == ('ODinW-35', 'ODinW-35', ())
    assert large.means['AP'] == pytest.approx(0.17, abs=1e-12)
    of_13 = [0, 3, 8, 11, 16, 21, 22, 23, 25, 26, 28, 30, 32]
    assert sorted(place[name] for name in members('ODinW-13')) == of_13
    assert small.means['AP'] == pytest.approx(sum(of_13) / 1300, abs=1e-12)
    assert small.means['AP50'] == pytest.approx(2 * sum(of_13) / 1300, abs=1e-12)
    assert small.stds == {'AP': None, 'AP50': None}


def test_partial_average_has_another_name():
    summary = only(summarize([result('Raccoon', 0.3), result('Aquarium', 0.1), result('BCCD', 0.8)]))
    small, large = summary.averages
    assert small.name == 'mean over 2 of 13'
    assert small.means['AP'] == pytest.approx(0.2)
    assert set(small.sets) == {'Raccoon', 'Aquarium'}
    assert len(small.missing) == 11
    assert 'pothole' in small.missing
    assert large.name == 'mean over 3 of 35'
    assert large.means['AP'] == pytest.approx(0.4)
    # A benchmark without one of its sets is not complete.
    most = only(summarize([result(name, 0.5) for name in members('ODinW-35') if name != 'dice']))
    assert [a.name for a in most.averages] == ['ODinW-13', 'mean over 34 of 35']


def test_average_over_own_files_has_another_name():
    results = [result(name, 0.5, deviation='own split' if name == 'Raccoon' else None) for name in members('ODinW-13')]
    for r in results:
        r['layout'] = 'small'
    assert only(summarize(results)).averages[0].name == 'mean over 13 of 13, own files'


def test_set_that_is_not_a_member_is_not_averaged():
    summary = only(summarize([result('coco_mini', 0.9, member=None), result('raccoon', 0.3, member='Raccoon')]))
    assert [row.name for row in summary.rows] == ['coco_mini', 'raccoon']
    assert [a.means['AP'] for a in summary.averages] == pytest.approx([0.3, 0.3])
    assert only(summarize([result('coco_mini', 0.9, member=None)])).averages == ()
    assert average('ODinW-13', []) is None


def test_seeds_give_means_and_standard_deviations():
    values = {'Raccoon': (0.10, 0.20, 0.30), 'Aquarium': (0.50, 0.40, 0.60)}
    results = [result(name, ap, seed) for name, aps in values.items() for seed, ap in enumerate(aps)]
    summary = only(summarize(results[::-1]))
    rows = {row.name: row for row in summary.rows}
    assert rows['Raccoon'].seeds == (0, 1, 2)
    assert rows['Raccoon'].values['AP'] == (0.10, 0.20, 0.30)
    # Sample standard deviations by hand: 0.1 for both sets; the means 0.30, 0.30, 0.45 have 0.15 / sqrt(3).
    assert rows['Raccoon'].stds['AP'] == pytest.approx(0.1)
    assert summary.averages[0].means['AP'] == pytest.approx(0.35)
    assert summary.averages[0].stds['AP'] == pytest.approx(0.15 / 3**0.5)
    # Sets with different seeds have a mean, but no standard deviation.
    fewer = only(summarize(results[:-1]))
    assert fewer.averages[0].means['AP'] == pytest.approx((0.2 + 0.45) / 2)
    assert fewer.averages[0].stds['AP'] is None


def test_summaries_separate_protocols_arms_layouts_and_splits():
    results = [
        result('Raccoon', 0.1),
        result('Aquarium', 0.9, protocol='visual-interactive'),
        result('Aquarium', 0.2, seed=None, protocol='text'),
        result('Aquarium', 0.3, arm='fine-tuned'),
        result('Aquarium', 0.4, split_policy='val'),
        result('Aquarium', 0.5, deviation='own'),
        result('Aquarium', 0.6) | {'protocol': dict(protocol='visual-generic', num_exemplars=4)},
    ]
    summaries = summarize(results)
    assert len(summaries) == len(results)
    assert all(
        len(summary.rows) == 1 and summary.averages[0].sets == (summary.rows[0].member,) for summary in summaries
    )
    assert summaries[0].title == 'Text'
    assert summaries[-1].title == 'Visual-I'
    assert {summary.title for summary in summaries[1:-1]} == {'Visual-G, N = 16', 'Visual-G, N = 4'}


def test_rows_follow_given_order():
    results = [result(name, 0.1) for name in ('Raccoon', 'dice', 'Aquarium')]
    assert [row.name for row in only(summarize(results, order=['dice', 'Raccoon'])).rows] == [
        'dice',
        'Raccoon',
        'Aquarium',
    ]


def test_repeated_run_is_rejected():
    with pytest.raises(InputError, match="Raccoon occurs twice with arm 'zero-shot', visual-generic and seed 0"):
        summarize([result('Raccoon', 0.1), result('Raccoon', 0.2)])


# Tables ----------------------------------------------------------------------------------------------------


def test_tables_have_a_column_per_arm_and_a_line_per_average():
    own = dict(deviation='own split')
    results = [
        result('raccoon', 0.1, member='Raccoon', **own),
        result('raccoon', 0.3, seed=1, member='Raccoon', **own),
        result('coco_mini', 0.25, member=None, **own),
        result('raccoon', 0.4, member='Raccoon', arm='fine-tuned', **own),
        result('bccd', 0.5, member='BCCD', arm='fine-tuned', **own),
        result('raccoon', 0.75, member='Raccoon', protocol='visual-interactive', **own),
    ]
    assert tables(summarize(results)) == '\n'.join(
        [
            '#### Visual-G, N = 16: split test, mean ± standard deviation over draws of the prompts',
            '',
            '| set | images | boxes | zero-shot AP | zero-shot AP50 | fine-tuned AP | fine-tuned AP50 |',
            '|---|---:|---:|---:|---:|---:|---:|',
            '| coco_mini (not ODinW) | 5 | 9 | 0.250 | 0.500 |  |  |',
            '| raccoon | 5 | 9 | 0.200 ± 0.141 | 0.400 ± 0.283 | 0.400 | 0.800 |',
            '| bccd | 5 | 9 |  |  | 0.500 | 1.000 |',
            '| **mean over 1 of 13, own files** |  |  | 0.200 ± 0.141 | 0.400 ± 0.283 | 0.400 | 0.800 |',
            '| **mean over 1 of 35, own files** |  |  | 0.200 ± 0.141 | 0.400 ± 0.283 |  |  |',
            '| **mean over 2 of 35, own files** |  |  |  |  | 0.450 | 0.900 |',
            '',
            '#### Visual-I: split test',
            '',
            '| set | images | boxes | zero-shot AP | zero-shot AP50 |',
            '|---|---:|---:|---:|---:|',
            '| raccoon | 5 | 9 | 0.750 | 1.000 |',
            '| **mean over 1 of 13, own files** |  |  | 0.750 | 1.000 |',
            '| **mean over 1 of 35, own files** |  |  | 0.750 | 1.000 |',
        ]
    )


def test_table_names_a_different_split():
    assert '| PascalVOC (val) | 5 |' in tables(summarize([result('PascalVOC', 0.1, split='val')]))


# Result files ----------------------------------------------------------------------------------------------


def test_read_results_reads_written_files(tmp_path):
    expected = [result('Aquarium', 0.0), result('Raccoon', 1.0)]
    for r in expected:
        path = tmp_path / 'runs' / r['set'] / 'visual-generic_n16_seed0.json'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(r))
    assert read_results(tmp_path) == expected


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"arm": ', 'not valid JSON at line 1'),
        ('[1]', 'not a result of tools/test_odinw.py'),
        ('{"arm": "a"}', 'it has no seed, config, checkpoint, command, metrics'),
        (json.dumps(result('Raccoon', 0.1) | {'metrics': {'AP': 0.1}}), 'AP50 is None, not a number between 0 and 1'),
        (json.dumps(result('Raccoon', -1)), 'AP is -1, not a number between 0 and 1'),
        (json.dumps(result('Raccoon', 30.3)), 'AP is 30.3, not a number between 0 and 1'),
        (json.dumps(result('Raccoon', float('nan'))), 'AP is nan, not a number'),
        (json.dumps(result('Raccoon', 0.1) | {'metrics': None}), 'AP is None'),
        (json.dumps(result('Raccoon', 0.1, protocol='visual')), 'unknown protocol'),
    ],
)
def test_broken_result_file_error_names_the_file(tmp_path, content, message):
    path = tmp_path / 'result.json'
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_result(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_folder_without_results_is_rejected(tmp_path):
    with pytest.raises(InputError, match='no result in runs/; give the --out-dir of tools/test_odinw.py'):
        read_results(tmp_path)
