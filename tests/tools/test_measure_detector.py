"""measure_detector, compared with tools/test.py on a tiny detector."""

import json

import pytest


def test_measure_detector_equals_test_tool(call, run_config, model_files, tmp_path):
    # Measure.
    out = tmp_path / 'measures.json'
    options = ['--set', f'base={run_config}', '--num-exemplars', 2, 1, '--prompt-seeds', 2, '--out', out]
    outcome = call('analysis_tools/measure_detector', model_files.checkpoint, *options)
    assert outcome.status == 0, outcome.err
    result = json.loads(out.read_text())
    kinds = [(r['protocol'], r.get('num_exemplars'), r['seed']) for r in result['runs']]
    assert sorted(kinds, key=str) == sorted(
        [('visual-interactive', None, s) for s in (0, 1)] + [('visual-generic', n, s) for n in (1, 2) for s in (0, 1)],
        key=str,
    )
    assert result['queries']['base']['objects'] == 6
    assert 'iisr' in result['prompts']['base']
    assert result['metrics']['base/distinct_queries'] == result['queries']['base']['distinct_queries']

    # Compare with tools/test.py.
    for kind, chosen in {
        'generic1': ['test_cfg.prompts.num_exemplars=1'],
        'interactive': ['test_cfg.prompts.type=VisualInteractive'],
    }.items():
        folder = tmp_path / kind
        tested = call(
            'test', run_config, model_files.checkpoint, '--prompt-seeds', 2, '--work-dir', folder,
            '--cfg-options', *chosen,
        )  # fmt: skip
        assert tested.status == 0, tested.err
        expected = json.loads((folder / 'metrics.json').read_text())
        for name, metric in (('AP', 'coco/bbox_mAP'), ('AP50', 'coco/bbox_mAP_50')):
            assert result['metrics'][f'base/{kind}/{name}'] == expected['metrics'][metric]
            assert result['metrics'][f'base/{kind}/{name}_std'] == expected['metrics_std'][metric]


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (['--set', 'base'], '--set base: expected NAME=CONFIG'),
        (['--set', 'base=CONFIG', '--prompt-seeds', 0], 'expected prompt seeds and exemplars >= 1'),
        (['--set', 'base=nowhere.py'], 'nowhere.py: no such config file'),
    ],
)
def test_measure_detector_bad_input(call, run_config, model_files, tmp_path, arguments, text):
    arguments = [str(a).replace('CONFIG', str(run_config)) if 'CONFIG' in str(a) else a for a in arguments]
    outcome = call('analysis_tools/measure_detector', model_files.checkpoint, *arguments, '--out', tmp_path / 'x.json')
    assert outcome.status == 2
    assert text in outcome.err


def test_measure_detector_missing_checkpoint(call, run_config, tmp_path):
    outcome = call(
        'analysis_tools/measure_detector', 'no.pth', '--set', f'a={run_config}', '--out', tmp_path / 'x.json'
    )
    assert outcome.status == 2
    assert 'no.pth: no such checkpoint' in outcome.err
