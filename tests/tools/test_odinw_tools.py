"""test_odinw and odinw_table: averages and tables from the files of two sets."""

import contextlib
import io
import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from mmengine.config import Config

from dinor1.evaluation.odinw.benchmark import load_sets
from tests.evaluation.test_odinw_results import result
from tests.model_files import random_image
from tests.tools.test_tools_bad_input import assert_refused

# MMEngine warns that several runs in one process share a visualizer.
pytestmark = pytest.mark.filterwarnings('ignore:.*instance named of visualizer')

_RUNS = itertools.count()
FLAGS = dict(area=280, iscrowd=0)


def write_set(root, s, splits=('train', 'test'), images=3):
    """Write a set with its released file names: noise images with a box of each of its first three classes."""
    names = s.file_categories or s.categories
    for seed, split in enumerate(splits):
        path, img_dir = s.ann_path(root, split), root / s.root / s.splits[split].img_dir
        path.parent.mkdir(parents=True, exist_ok=True)
        img_dir.mkdir(parents=True, exist_ok=True)
        content = dict(
            images=[dict(id=i, file_name=f'{split}{i}.png', width=64, height=48) for i in range(images)],
            annotations=[
                dict(id=10 * i + c, image_id=i, category_id=1 + c, bbox=[4 + 15 * c, 5 + i, 14, 20], **FLAGS)
                for i in range(images)
                for c in range(min(3, len(names)))
            ],
            categories=[dict(id=1 + c, name=name) for c, name in enumerate(names)],
        )
        path.write_text(json.dumps(content))
        for i in range(images):
            cv2.imwrite(str(img_dir / f'{split}{i}.png'), random_image(48, 64, seed=10 * seed + i))


@pytest.fixture(autouse=True)
def _plain_configs(monkeypatch):
    """Do not format configs: MMEngine writes four per run, and formatting takes longer than everything else."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))


@pytest.fixture
def in_process(monkeypatch):
    """Runs tools/test.py in this process, because a new process takes seconds; returns the list of its arguments."""
    calls, real_run = [], subprocess.run

    def run(command: list[str], **options) -> SimpleNamespace:
        if command[0] != sys.executable:  # a library looks for a compiler or for git
            return real_run(command, **options)
        assert options.keys() == {'stdout', 'stderr'}
        assert options['stderr'] is subprocess.STDOUT
        calls.append(command[2:])
        # Name the experiment, because MMEngine keeps one logger per name and names experiments by the second.
        arguments = [*command[1:], '--cfg-options', f'experiment_name=odinw{next(_RUNS)}']
        said, status = io.StringIO(), 0
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), monkeypatch.context() as patch:
            patch.setattr(sys, 'argv', arguments)
            try:
                runpy.run_path(command[1], run_name='__main__')
            except SystemExit as stop:
                status = stop.code
        options['stdout'].write(said.getvalue())
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(subprocess, 'run', run)
    return calls


@pytest.fixture
def data_root(tmp_path):
    """Folder with two sets in the layout of the release: one has spaces in its path, one has a renamed class."""
    root = tmp_path / 'data/odinw'
    for name in ('Aquarium', 'CottontailRabbits'):
        write_set(root, load_sets()[name])
    return root


@pytest.fixture
def odinw(call, run_config, model_files, data_root, tmp_path):
    """``odinw(*options, config=..., checkpoint=..., out_dir=...)`` runs the tool on the two sets."""

    def run(*options, config=None, checkpoint=None, out_dir=None):
        arguments = [config or run_config, checkpoint or model_files.checkpoint]
        arguments += ['--data-root', data_root, '--out-dir', out_dir or tmp_path / 'out']
        return call('test_odinw', *arguments, *options)

    return run


def results_in(folder):
    return {str(p.relative_to(folder / 'runs')): json.loads(p.read_text()) for p in folder.glob('runs/*/*.json')}


def test_odinw_all_sets_and_protocols(odinw, in_process, run_config, model_files, data_root, tmp_path):
    # Run all sets and protocols.
    out = tmp_path / 'out'
    outcome = odinw('--prompt-seeds', 2, '--num-exemplars', 2)
    assert outcome.status == 0, outcome
    assert 'Missing: 33 of 35 sets (AerialMaritimeDrone_large, ' in outcome.out
    assert f'{data_root}/AerialMaritimeDrone/large/test/annotations_without_background.json' in outcome.out
    assert 'Warning: Aquarium test: 3 images instead of 63 in the manifest' in outcome.out
    assert '0 of 4 runs are finished' in outcome.out
    assert '(ETA 0:00:00)' in outcome.out
    assert '[4/4] CottontailRabbits visual-interactive: AP ' in outcome.out

    # Check the result files.
    results = results_in(out)
    seeds = ('visual-generic_n2_seed0', 'visual-generic_n2_seed1', 'visual-interactive_seed0')
    # The tiny model has no language model, so there are no text prompts.
    assert set(results) == {f'{name}/{stem}.json' for name in ('Aquarium', 'CottontailRabbits') for stem in seeds}
    first = results['Aquarium/visual-generic_n2_seed0.json']
    assert (first['arm'], first['seed'], first['config']) == ('zero-shot', 0, str(run_config))
    assert (first['split'], first['num_images'], first['num_boxes']) == ('test', 3, 9)
    assert first['command'].startswith('python tools/test.py ')
    assert first['command'].endswith('--prompt-seeds 2')
    assert first['suite_command'].startswith('python tools/test_odinw.py ')
    assert first['suite_command'].endswith('--prompt-seeds 2 --num-exemplars 2')
    assert first['protocol'] == dict(protocol='visual-generic', num_exemplars=2)
    # Four of the seven classes have no box in these files.
    assert first['without_exemplar'] == ['puffin', 'shark', 'starfish', 'stingray']
    assert {'torch', 'mmdet', 'dinor1', 'python', 'device'} <= set(first['environment'])
    metrics = json.loads((out / 'work/Aquarium/visual-generic_n2/metrics.json').read_text())
    for seed in (0, 1):
        mine = results[f'Aquarium/visual-generic_n2_seed{seed}.json']['metrics']
        theirs = metrics['runs'][seed]['metrics']
        assert mine == theirs | dict(AP=theirs['coco/bbox_mAP'], AP50=theirs['coco/bbox_mAP_50'])

    # The released name is replaced in a copy that both the model and the metric read.
    cfg = Config.fromfile(out / 'work/CottontailRabbits/visual-generic_n2/config.py')
    copy = out / 'annotations/CottontailRabbits/test.json'
    assert cfg.test_dataloader.dataset.ann_file == cfg.test_evaluator.ann_file == str(copy)
    assert cfg.prompt_dataset.ann_file == str(out / 'annotations/CottontailRabbits/train.json')
    assert [c['name'] for c in json.loads(copy.read_text())['categories']] == ['rabbit']
    work_dir = out / 'work/CottontailRabbits/visual-generic_n2'
    draw = json.loads((work_dir / 'prompts_visual-generic_n2_seed0.json').read_text())
    assert {e['name'] for e in draw['exemplars']} == {'rabbit'}

    # Check the averages.
    summary = json.loads((out / 'summary.json').read_text())
    assert len(summary['missing']) == 33
    assert summary['failed'] == {}
    assert summary['split'] == 'test'
    generic, interactive = summary['protocols']
    by_hand = [
        sum(results[f'{name}/visual-generic_n2_seed{s}.json']['metrics']['AP'] for s in (0, 1)) / 2
        for name in ('Aquarium', 'CottontailRabbits')
    ]
    assert [row['means']['AP'] for row in generic['rows']] == pytest.approx(by_hand)
    assert [a['name'] for a in generic['averages']] == ['mean over 2 of 13', 'mean over 2 of 35']
    assert generic['averages'][0]['means']['AP'] == pytest.approx(sum(by_hand) / 2)
    by_hand = [
        results[f'{name}/visual-interactive_seed0.json']['metrics']['AP'] for name in ('Aquarium', 'CottontailRabbits')
    ]
    assert interactive['averages'][0]['means']['AP'] == pytest.approx(sum(by_hand) / 2)
    assert '| **mean over 2 of 13** |  |  |' in outcome.out
    assert '#### Visual-I: split test' in outcome.out

    # A second call runs nothing; if a result is missing, only its run is repeated.
    assert len(in_process) == 4
    again = odinw('--prompt-seeds', 2, '--num-exemplars', 2)
    assert again.status == 0
    assert '4 of 4 runs are finished' in again.out
    assert len(in_process) == 4
    (out / 'runs/Aquarium/visual-generic_n2_seed1.json').unlink()
    again = odinw('--prompt-seeds', 2, '--num-exemplars', 2)
    assert again.status == 0
    assert '3 of 4 runs are finished' in again.out
    assert len(in_process) == 5
    assert 'Aquarium/visual-generic_n2' in in_process[-1][0]
    repeated = results_in(out)
    assert {name: r['metrics'] for name, r in repeated.items()} == {name: r['metrics'] for name, r in results.items()}


def test_odinw_set_placeholder_and_small_layout(
    odinw, call, in_process, run_config, model_files, tmp_path, monkeypatch
):
    write_set(tmp_path / 'small', load_sets('small')['raccoon'])
    weights = tmp_path / 'raccoon.pth'
    weights.write_bytes(Path(model_files.checkpoint).read_bytes())
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path / 'small'))
    monkeypatch.chdir(tmp_path)
    options = ['--layout', 'small', '--protocols', 'visual-generic']
    outcome = call('test_odinw', run_config, tmp_path / '{set}.pth', *options)
    assert outcome.status == 0, outcome
    (stored,) = results_in(tmp_path / 'work_dirs/odinw/fine-tuned').values()
    assert (stored['arm'], stored['checkpoint']) == ('fine-tuned', str(weights))
    assert (stored['set'], stored['member'], stored['layout']) == ('raccoon', 'Raccoon', 'small')
    assert 'Own split' in stored['deviation']
    assert '| **mean over 1 of 13, own files** |  |  |' in outcome.out

    # Write the table to a page.
    page = tmp_path / 'page.md'
    page.write_text('# Zoo\n\n<!-- odinw:begin -->\nold\n<!-- odinw:end -->\n\nmore\n')
    outcome = call('analysis_tools/odinw_table', 'work_dirs/odinw/fine-tuned', '--update', page)
    assert outcome.status == 0, outcome
    text = page.read_text()
    assert text.startswith('# Zoo\n\n<!-- odinw:begin -->\n\n#### Visual-G, N = 16: split test\n')
    assert text.endswith('```\n\n<!-- odinw:end -->\n\nmore\n')
    assert '\nold\n' not in text
    assert f'- `raccoon`: {load_sets("small")["raccoon"].deviation}' in text
    assert '- Counts differ from the manifest: raccoon test: 3 images instead of 17' in text
    assert 'python tools/test_odinw.py ' in text
    assert '--layout small' in text
    # A second call gives the same page.
    assert call('analysis_tools/odinw_table', 'work_dirs/odinw/fine-tuned', '--update', page).status == 0
    assert page.read_text() == text


def test_odinw_failed_run_does_not_stop_others(odinw, in_process, data_root, tmp_path):
    image = data_root / 'CottontailRabbits/test/test1.png'
    image.write_bytes(b'not an image')
    options = ['--protocols', 'visual-interactive', '--sets', 'CottontailRabbits', 'Aquarium']
    outcome = odinw(*options)
    assert outcome.status == 2
    assert outcome.err == (
        f'error: 1 of 2 runs failed, the first: CottontailRabbits visual-interactive: {image}: not an image '
        'that can be read; restore the file '
        f'({tmp_path}/out/work/CottontailRabbits/visual-interactive/test.log)\n'
    )
    assert list(results_in(tmp_path / 'out')) == ['Aquarium/visual-interactive_seed0.json']
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert list(summary['failed']) == ['CottontailRabbits visual-interactive']
    assert len(in_process) == 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--sets', 'Aquarum'], "no set is named 'Aquarum'; did you mean Aquarium"),
        (['--sets', 'dice'], 'none of 1 sets is here, for example'),
        (['--protocols', 'text'], 'the model has no language model and cannot be given text prompts'),
        (['--prompt-seeds', '0'], '--prompt-seeds and --num-exemplars must be at least 1'),
        (['--cfg-options', 'modle.num_queries=3'], "did you mean 'model'"),
    ],
)
def test_odinw_bad_options_run_nothing(odinw, in_process, tmp_path, options, message):
    assert_refused(odinw(*options), message)
    assert not in_process
    assert not (tmp_path / 'out').exists()


def test_odinw_bad_config_or_checkpoint_runs_nothing(odinw, in_process, model_files, tmp_path):
    assert_refused(odinw(checkpoint=tmp_path / '{set}.pth'), 'Aquarium.pth: no such checkpoint', '--sets')
    assert_refused(odinw(config=model_files.config), 'not a config of a prompted detector')
    assert not in_process


def test_odinw_other_categories_run_nothing(odinw, in_process, data_root):
    path = load_sets()['Aquarium'].ann_path(data_root, 'train')
    content = json.loads(path.read_text())
    content['categories'][0]['name'] = 'eel'
    path.write_text(json.dumps(content))
    assert_refused(odinw(), path, "it has ['eel'] and lacks ['fish']")
    assert not in_process


def test_odinw_rejects_results_of_other_settings(odinw, in_process, model_files, other_files, tmp_path):
    options = ['--protocols', 'visual-interactive', '--sets', 'CottontailRabbits']
    assert odinw(*options).status == 0
    path = tmp_path / 'out/runs/CottontailRabbits/visual-interactive_seed0.json'
    # Reject another model or arm in the same folder.
    message = f'a result of another suite (checkpoint {model_files.checkpoint} instead of {other_files.checkpoint})'
    assert_refused(odinw(*options, checkpoint=other_files.checkpoint), path, message, 'give another --out-dir')
    assert_refused(odinw(*options, '--arm', 'other'), path, 'arm zero-shot instead of other')
    # Reject other settings of the same model, and other weights in the same file.
    changed = ['--cfg-options', 'model.test_cfg.max_per_img=5']
    assert_refused(odinw(*options, *changed), path, 'the config or its settings have changed since', '--redo')
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {'checkpoint_sha256': 'other'}))
    assert_refused(odinw(*options), path, 'the checkpoint has changed since', '--redo')
    # Reject them also if this call does not run that set.
    others = [*options[:-1], 'Aquarium']
    assert_refused(odinw(*others), path, 'has changed since', 'run CottontailRabbits again with --redo')
    # Reject a truncated file.
    path.write_text(json.dumps(stored)[:100])
    assert_refused(odinw(*options), path, 'not valid JSON')
    assert len(in_process) == 1
    assert odinw(*options, '--redo').status == 0
    assert len(in_process) == 2


def test_odinw_table_bad_input(call, tmp_path):
    assert_refused(call('analysis_tools/odinw_table', tmp_path), 'no result in runs/')
    runs = tmp_path / 'out/runs/Raccoon'
    runs.mkdir(parents=True)
    (runs / 'a.json').write_text('{"arm": ')
    assert_refused(call('analysis_tools/odinw_table', tmp_path / 'out'), runs / 'a.json', 'not valid JSON')


def test_odinw_table_keeps_page_without_markers(call, tmp_path):
    path = tmp_path / 'out/runs/Raccoon/visual-generic_n16_seed0.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result('Raccoon', 0.25)))
    for content in ('no marker', '<!-- odinw:end -->\n<!-- odinw:begin -->', '<!-- odinw:begin -->'):
        page = tmp_path / 'page.md'
        page.write_text(content)
        outcome = call('analysis_tools/odinw_table', tmp_path / 'out', '--update', page)
        assert_refused(outcome, page, 'expected one line <!-- odinw:begin --> and after it one line <!-- odinw:end -->')
        assert page.read_text() == content
    assert_refused(call('analysis_tools/odinw_table', tmp_path / 'out', '--update', tmp_path / 'no.md'), 'no such file')


@pytest.mark.slow
def test_odinw_in_new_process(repo, run_config, model_files, data_root, tmp_path):
    """The tool starts new processes, in a folder that is not the repository."""
    command = [
        sys.executable,
        repo / 'tools/test_odinw.py',
        run_config,
        model_files.checkpoint,
        '--data-root',
        data_root,
    ]
    options = ['--sets', 'Aquarium', '--protocols', 'visual-generic', '--arm', 'tiny']
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (stored,) = results_in(tmp_path / 'work_dirs/odinw/tiny').values()
    assert stored['arm'] == 'tiny'
    assert 0 <= stored['metrics']['AP'] <= 1
