"""tools/analysis_tools/collect_results.py: its table, and one-line errors for files not written by tools/test.py."""

import json

import pytest

METRICS = {'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.75}
RECORD = dict(ann_file='data/val.json', protocol=dict(protocol='visual-generic', seed=0), metrics=METRICS)


@pytest.fixture
def collect(call, tmp_path):
    def run(record):
        (tmp_path / 'run').mkdir()
        (tmp_path / 'run/metrics.json').write_text(json.dumps(record))
        return call('analysis_tools/collect_results', tmp_path / 'run', '--out', tmp_path / 'out.md')

    return run


@pytest.mark.parametrize(
    ('record', 'row'),
    [
        (RECORD, '| run | val.json | visual-generic, seed 0 | 0.500 | 0.750 |'),
        (RECORD | dict(protocol={}), '| run | val.json | - | 0.500 | 0.750 |'),
        (
            RECORD | dict(runs=[{}, {}], metrics_std=METRICS),
            '| run | val.json | visual-generic, 2 seeds | 0.500 ± 0.500 | 0.750 ± 0.750 |',
        ),
    ],
)
def test_collect_results_row_per_folder(collect, tmp_path, record, row):
    assert collect(record).status == 0
    assert (tmp_path / 'out.md').read_text().splitlines()[-1] == row


@pytest.mark.parametrize(
    ('record', 'message'),
    [
        ([], 'no metrics, protocol, ann_file, so not written by tools/test.py'),
        (dict(metrics=[]), 'no metrics, protocol, ann_file'),
        (RECORD | dict(ann_file=None), 'no ann_file'),
        (RECORD | dict(metrics={}), 'no coco/bbox_mAP, coco/bbox_mAP_50 in metrics'),
        (RECORD | dict(metrics=METRICS | {'coco/bbox_mAP': None}), 'no coco/bbox_mAP in metrics'),
        (RECORD | dict(runs=[]), 'in metrics_std'),
    ],
)
def test_collect_results_rejects_other_files(collect, tmp_path, record, message):
    outcome = collect(record)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert str(tmp_path / 'run/metrics.json') in outcome.err
    assert not (tmp_path / 'out.md').exists()
