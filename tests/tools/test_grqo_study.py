"""The study of GRQO: its page from generated results, and a tiny grid from end to end."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinor1.studies.results import add_rows, read_rows
from dinor1.studies.study import load_study

STUDY = 'configs/studies/grqo.py'
MARKS = re.compile(r'<!-- (grqo-\w+):begin -->(.*?)<!-- \1:end -->', re.DOTALL)


@pytest.fixture
def page(repo, tmp_path, monkeypatch) -> Path:
    """Copy of the page without text between its markers."""
    monkeypatch.chdir(repo)
    path = tmp_path / 'docs/research/grqo.md'
    path.parent.mkdir(parents=True)
    text = (repo / 'docs/research/grqo.md').read_text()
    path.write_text(MARKS.sub(r'<!-- \1:begin -->\n<!-- \1:end -->', text))
    return path


def queries(rng) -> dict:
    places = rng.integers(0, 9, (2, 40)).tolist()
    return dict(objects=sum(places[0]), matched_places=places, covering=[3.0, 4.0], responding=[2.0, 3.5])


def record(run, rng) -> dict:
    """Make a row with random numbers; the AP of GRQO is exactly 0.02 above that of SFT with the same seed."""
    # Draw the metrics.
    base = dict(enumerate([0.60, 0.62, 0.64, 0.63, 0.61]))[run.seed] + 0.02 * (run.arm != 'SFT')
    sets = ['test'] if ', ' in run.arm and 'prompt' not in run.arm else ['base', 'novel']
    metrics = {'coco/bbox_mAP': base, 'coco/bbox_mAP_50': base}
    for name in sets:
        for kind in ('generic1', 'generic4', 'generic16', 'interactive'):
            metrics |= {f'{name}/{kind}/{ap}{std}': base for ap in ('AP', 'AP50') for std in ('', '_std')}
        for key in ('intra', 'inter_proto', 'objectness_entropy', 'absent_class_share', 'distinct_queries',
                    'ever_responding', 'responding_last', 'covering_last', 'spread_last'):  # fmt: skip
            metrics[f'{name}/{key}'] = float(rng.random())
    # Make the gradients, and put the row together.
    terms = dict.fromkeys(('class', 'box', 'advantage'), 0.5) | ({} if run.arm == 'SFT' else dict(kl=1e-9))
    names = ('reward_std', 'advantage_matched', 'advantage_unmatched', 'advantage_kept')
    figures = {f'grqo_{name}': 0.1 for name in names}
    points = [dict(iter=i, norm=terms, cosine=terms, queries=terms, figures=figures) for i in (0, 125, 250)]
    return dict(
        arm=run.arm, seed=run.seed, config=run.config, config_hash=run.key.config_hash, options=list(run.options),
        start=run.start, metrics=metrics,
        curves=dict(loss=[[50, 2.0], [100, 1.0]], grqo_kl=[[50, 0.1]] if run.arm != 'SFT' else []),
        measures=dict(queries={name: queries(rng) for name in sets}), gradients=points, seconds=60.0,
        train_seconds=30.0, cpu_seconds=20.0, memory_mib=900, seconds_per_iteration=0.2,
        environment=dict(python='3', torch='2', machine='m', device='CPU, 1 threads'),
    )  # fmt: skip


def store(path, runs):
    rng = np.random.default_rng(0)
    add_rows(path, [record(run, rng) for run in runs])


def parts(page: Path) -> dict[str, str]:
    return dict(MARKS.findall(page.read_text()))


def test_grqo_study_grid(repo, monkeypatch):
    monkeypatch.chdir(repo)
    runs = load_study(STUDY).runs
    seeds = {}
    for run in runs:
        seeds.setdefault(run.arm, []).append(run.seed)
    assert {arm: len(own) for arm, own in seeds.items() if len(own) != 3} == {'SFT': 5, 'GRQO': 5}
    # On the shapes world, every arm of GRQO starts from the first epoch of SFT with the same seed.
    for run in runs:
        if run.config.endswith('dino-r1_nano_1xb8_6e_shapes.py'):
            assert run.start == dict(arm='SFT', checkpoint='epoch_1.pth', resume=True)
    assert {run.arm for run in runs if run.start is None} == {'SFT'}


def test_grqo_study_report_without_results(call, page, tmp_path):
    outcome = call('analysis_tools/grqo_study', '--report', '--results', tmp_path / 'r', '--page', page)
    assert outcome.status == 0, outcome.err
    found = parts(page)
    assert '0 of 55 runs are finished.' in found.pop('grqo-state')
    assert len(found) == 12
    assert all(text.strip() == 'Not run yet.' for text in found.values())


def test_grqo_study_committed_page_is_generated(call, page, repo, tmp_path):
    """The text between the markers is generated."""
    call('analysis_tools/grqo_study', '--report', '--results', repo / 'results', '--page', page)
    assert page.read_text() == (repo / 'docs/research/grqo.md').read_text()


def test_grqo_study_report_of_whole_grid(call, page, tmp_path):
    # Write the page.
    study = load_study(STUDY)
    store(tmp_path / 'r/grqo.jsonl', study.runs)
    store(tmp_path / 'r/grqo_verify.jsonl', study.runs[:1])
    store(tmp_path / 'r/grqo_rounding.jsonl', study.runs[:1])
    outcome = call('analysis_tools/grqo_study', '--report', '--results', tmp_path / 'r', '--page', page)
    assert outcome.status == 0, outcome.err
    found = parts(page)
    assert '55 of 55 runs are finished.' in found['grqo-state']
    assert 'Not run yet' not in ''.join(found.values())
    # Equal differences have an interval of width 0.
    exact = '**+0.0200 [+0.0200, +0.0200]**'
    assert f'| GRQO | 5 | {exact} |' in found['grqo-differences']
    assert f'| policy | 3 | {exact} |' in found['grqo-differences']
    assert '| policy | 3 | +0.0000 [+0.0000, +0.0000] |' in found['grqo-differences']
    assert '| GRQO | 5 | 0.640 ± 0.016 |' in found['grqo-accuracy']
    assert '| without mute | 3 | +0.0000 [+0.0000, +0.0000] |' in found['grqo-null']
    assert exact in found['grqo-protocols']
    assert '1.0e-09' in found['grqo-gradients']
    assert '| SFT | 5 | 0.50 ± 0.00 |' in found['grqo-costs']
    assert 'GRQO, aquarium' in found['grqo-real']
    assert '| SFT, seed 0 |' in found['grqo-verify']
    assert '| yes |' in found['grqo-verify']
    assert '| SFT, seed 0 | +0.0000 | +0.0000 |' in found['grqo-rounding']
    for name in re.findall(r'!\[\w+\]\((images/\w+\.png)\)', page.read_text()):
        image = cv2.imread(str(page.parent / name))
        assert image is not None
        assert image.std() > 0
    assert len(list(page.parent.glob('images/*.png'))) == 4


def test_grqo_study_report_of_part_of_grid(call, page, tmp_path):
    study = load_study(STUDY)
    store(tmp_path / 'r/grqo.jsonl', [run for run in study.runs if run.arm in ('SFT', 'policy') and run.seed == 0])
    outcome = call('analysis_tools/grqo_study', '--report', '--results', tmp_path / 'r', '--page', page)
    found = parts(page)
    assert outcome.status == 0
    assert '2 of 55' in outcome.out
    assert '| policy | 1 | +0.0200 |' in found['grqo-differences']
    assert found['grqo-real'].strip() == 'Not run yet.'


@pytest.mark.parametrize('without', ['gradients', None])
def test_grqo_study_page_without_markers_gets_no_figures(call, page, tmp_path, without):
    study = load_study(STUDY)
    store(tmp_path / 'r/grqo.jsonl', [run for run in study.runs if run.seed == 0 and run.arm in ('SFT', 'policy')])
    if without is None:
        page.unlink()
    else:
        page.write_text(page.read_text().replace(f'<!-- grqo-{without}:end -->', ''))
    outcome = call('analysis_tools/grqo_study', '--report', '--results', tmp_path / 'r', '--page', page)
    assert outcome.status == 2
    assert ('no such file' if without is None else 'grqo-gradients:begin') in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (page.parent / 'images').exists()


def test_grqo_study_list_and_bad_input(call, repo, monkeypatch, tmp_path):
    monkeypatch.chdir(repo)
    listed = call('analysis_tools/grqo_study', '--list', '--only', 'policy', '--seeds', 1, '--results', tmp_path)
    assert listed.out.splitlines() == ['missing SFT_seed1', 'missing policy_seed1']
    wrong = call('analysis_tools/grqo_study', '--verify')
    assert wrong.status == 2
    assert '--only and --seeds' in wrong.err


@pytest.mark.slow
def test_grqo_study_tiny_grid_end_to_end(call, run_config, tmp_path, monkeypatch, repo):
    """SFT trains two epochs, GRQO starts from the first one; a repeated run has equal results."""
    from mmengine.config import Config

    monkeypatch.chdir(repo)
    cfg = Config.fromfile(run_config)
    cfg.model.bbox_head.loss_grqo = dict(type='GRQOLoss')
    cfg.default_hooks.reference = dict(type='ReferenceModelHook')
    cfg.dump(tmp_path / 'grqo.py')
    # Write a study of two arms.
    study = tmp_path / 'tiny.py'
    study.write_text(
        f'title = "T"\nseeds = [0]\nmetrics = {{"base/generic2/AP": "AP"}}\ncurves = ["loss", "grqo_kl"]\n'
        'options = ["train_cfg.max_epochs=2", "train_cfg.val_interval=2", "param_scheduler=[]",\n'
        '    "default_hooks.gradients.type=LossGradientHook", "default_hooks.logger.interval=1"]\n'
        f'arms = {{"SFT": dict(config={str(run_config)!r}), "GRQO": dict(config={str(tmp_path / "grqo.py")!r},\n'
        '    start=dict(arm="SFT", checkpoint="epoch_1.pth", resume=True))}\n'
        'after = {"measures": ["tools/analysis_tools/measure_detector.py", "{checkpoint}", "--out", "{out}",\n'
        f'    "--set", "base={run_config}", "--num-exemplars", "2", "--prompt-seeds", "1"]}}\n'
        'keep = {"gradients": "loss_gradients.json"}\n'
    )
    # Run it, run it again, and repeat a run.
    common = ['--study', study, '--results', tmp_path / 'results', '--work-dir', tmp_path / 'work']
    first = call('analysis_tools/grqo_study', *common)
    assert first.status == 0, first.err
    assert '[1/2] SFT_seed0' in first.out
    assert '[2/2] GRQO_seed0' in first.out
    again = call('analysis_tools/grqo_study', *common)
    assert again.status == 0
    assert '[1/' not in again.out
    second = call('analysis_tools/grqo_study', *common, '--verify', '--only', 'SFT', '--seeds', 0)
    assert second.status == 0, second.err
    grqo, sft = read_rows(tmp_path / 'results/tiny.jsonl')
    (repeated,) = read_rows(tmp_path / 'results/tiny_verify.jsonl')
    for key in ('metrics', 'gradients', 'curves'):
        assert repeated[key] == sft[key]
    # An epoch is one iteration; GRQO continues from the first.
    assert [i for i, _ in sft['curves']['loss']] == [1, 2]
    assert [i for i, _ in grqo['curves']['loss']] == [2]
    assert sft['curves']['grqo_kl'] == [] != grqo['curves']['grqo_kl']
    assert sft['gradients'][0]['iter'] == 0
