"""Bad input to the tools: one line on standard error, exit status 2, no traceback, nothing written."""

import json
import shutil
import subprocess
import sys

import pytest
from mmengine.config import Config

from tests.tools.conftest import coco_content

# MMEngine warns that several runs in one process share a visualizer.
pytestmark = pytest.mark.filterwarnings('ignore:.*instance named of visualizer')


def assert_refused(outcome, *parts):
    """Check that the only line on standard error is an error that contains ``parts``."""
    lines = outcome.err.strip().splitlines()
    assert outcome.status == 2, outcome
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith('error: '), outcome.err
    for part in parts:
        assert str(part) in lines[0]
    assert 'Traceback' not in outcome.out


def results_in(folder):
    """Files below ``folder``, without logs and configs."""
    return [p for p in folder.rglob('*') if p.is_file() and p.suffix not in ('.log', '.py')]


# ------------------------------------------------------------------------ image_demo


@pytest.fixture
def demo(call, model_files, image_folder, tmp_path):
    """``demo(*options, target=..., config=..., checkpoint=...)`` runs image_demo; asserts that nothing is written."""

    def run(*options, target=None, config=None, checkpoint=None):
        out_dir = tmp_path / 'out'
        outcome = call(
            'image_demo',
            image_folder / '0.png' if target is None else target,
            *('--config', config or model_files.config),
            *('--checkpoint', checkpoint or model_files.checkpoint),
            *('--device', 'cpu'),
            *('--out-dir', out_dir),
            *options,
        )
        assert not out_dir.exists()
        return outcome

    return run


@pytest.fixture
def broken(tmp_path):
    """A truncated PNG file."""
    path = tmp_path / 'broken.png'
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(20))
    return path


@pytest.mark.parametrize(
    ('prompt', 'message'),
    [
        ('{good}:5,5,x,40:cat', 'not four numbers'),
        ('{good}:5,5,30:cat', 'expected REF.jpg:x1,y1,x2,y2'),
        ('{good}', 'expected REF.jpg:x1,y1,x2,y2'),
        ('{good}:30,5,5,40', 'has no area'),
        ('{good}:5,5,5,40', 'has no area'),
        ('{good}:5,5,30,400', 'leaves the image of 80 x 60 pixels'),
        ('{good}:500,500,600,600', 'leaves the image'),
        ('absent.png:5,5,30,40', 'absent.png: no such image'),
        ('{folder}:5,5,30,40', 'a folder where an image is expected'),
        ('{folder}/notes.txt:5,5,30,40', 'notes.txt: not an image that can be read'),
        ('{broken}:5,5,30,40', 'broken.png: not an image that can be read'),
    ],
)
def test_image_demo_bad_prompt(demo, image_folder, broken, prompt, message):
    prompt = prompt.format(good=image_folder / '0.png', folder=image_folder, broken=broken)
    assert_refused(demo('--prompt', prompt), message)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ([], 'no prompts: give boxes'),
        (['--text', ' . '], 'no prompts: give boxes'),
        (['--text', 'cat . dog'], 'no language model'),
        (['--negative-prompt', '{good}:5,5,30,40'], 'all prompts are negative'),
        (['--prompt=-{good}:5,5,30,40'], 'all prompts are negative'),
        (['--prompt', '{good}:5,5,30,40:a', '--prompt', '{good}:5,5,30,40:-a'], "'a' is given as positive"),
        (['--bank', 'absent.safetensors'], 'absent.safetensors: no such prompt bank'),
        (['--prompt', '{good}:5,5,30,40', '--device', 'gpu'], "device 'gpu'"),
        (['--prompt', '{good}:5,5,30,40', '--device', 'mps'], "device 'mps': not usable on this machine"),
        (['--prompt', '{good}:5,5,30,40', '--device', 'xpu'], "device 'xpu': not usable on this machine"),
        (['--prompt', '{good}:5,5,30,40', '--device', 'cuda:99'], "device 'cuda:99': this machine has"),
        (['--prompt', '{good}:5,5,30,40', '--score-thr', '30'], '--score-thr must be in [0, 1], as scores are, got 30'),
        (['--prompt', '{good}:5,5,30,40', '--score-thr', 'nan'], '--score-thr must be in [0, 1]'),
        (['--prompt', '{good}:5,5,30,40', '--nms-thr', '70'], '--nms-thr must be in [0, 1], as IoU is, got 70'),
        (['--prompt', '{good}:5,5,30,40', '--tile', '8'], '--tile must be at least 32, got 8'),
        (['--prompt', '{good}:5,5,30,40', '--tile', '64', '--overlap', '1'], '--overlap must be in [0, 0.9]'),
        (['--prompt', '{good}:5,5,30,40', '--resume'], '--resume keeps results of an earlier --export'),
        (['--prompt', '{good}:5,5,30,40', '--batch-size', '0'], '--batch-size must be at least 1'),
    ],
)
def test_image_demo_bad_options(demo, image_folder, options, message):
    assert_refused(demo(*(option.format(good=image_folder / '0.png') for option in options)), message)


def test_image_demo_bad_target(demo, reference, broken, image_folder, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    shutil.copy(image_folder / 'notes.txt', empty)
    prompt = ('--prompt', reference)
    assert_refused(demo(*prompt, target=tmp_path / 'absent.jpg'), 'absent.jpg: no such image')
    assert_refused(demo(*prompt, target=empty), 'empty: no image in this folder')
    assert_refused(demo(*prompt, target=broken), 'broken.png: not an image that can be read')
    assert_refused(demo(*prompt, target=image_folder / 'notes.txt'), 'not an image that can be read')


def test_image_demo_unreadable_image_in_a_folder_ends_it_before_any_detection(
    call, model_files, reference, broken, image_folder, tmp_path
):
    folder, out_dir = tmp_path / 'targets', tmp_path / 'out'
    folder.mkdir()
    shutil.copy(image_folder / '0.png', folder / 'a.png')
    shutil.copy(broken, folder / 'b.png')
    files = ('--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu')
    options = ('--prompt', reference, '--out-dir', out_dir, '--batch-size', 1)
    assert_refused(call('image_demo', folder, *files, *options), 'b.png: not an image that can be read')
    assert not out_dir.exists()
    # With --skip-unreadable, the other images are searched, and the file is listed at the end.
    outcome = call('image_demo', folder, *files, *options, '--skip-unreadable')
    assert (outcome.status, outcome.err) == (0, '')
    assert sorted(str(p.relative_to(out_dir)) for p in results_in(out_dir)) == ['preds/a.json', 'vis/a.png']
    line, last = outcome.out.splitlines()[-2:]
    assert line == 'Left out 1 of 2 images that cannot be read:'
    assert last.startswith(f'  {folder / "b.png"}: not an image that can be read')


def test_image_demo_never_overwrites_targets(call, model_files, reference, image_folder, tmp_path):
    folder = tmp_path / 'vis'
    folder.mkdir()
    shutil.copy(image_folder / '0.png', folder / '0.png')
    before = (folder / '0.png').read_bytes()
    files = ('--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu')
    outcome = call('image_demo', folder, *files, '--prompt', reference, '--out-dir', tmp_path)
    assert_refused(outcome, '0.png is a target and would be overwritten')
    assert (folder / '0.png').read_bytes() == before


def test_image_demo_out_dir_is_a_file(call, model_files, reference, image_folder, tmp_path):
    (tmp_path / 'file').write_text('')
    files = ('--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu')
    options = ('--prompt', reference, '--out-dir', tmp_path / 'file')
    assert_refused(call('image_demo', image_folder / '0.png', *files, *options), 'file')


def test_image_demo_bad_bank(demo, call, run_config, other_files, tmp_path):
    bank = tmp_path / 'bank.safetensors'
    assert call('build_prompt_bank', run_config, other_files.checkpoint, '--out', bank).status == 0
    assert_refused(demo('--bank', bank), bank, 'made by another model')
    bank.write_bytes(bank.read_bytes()[:-9])
    assert_refused(demo('--bank', bank), bank, 'not a readable safetensors file')
    bank.write_bytes(b'')
    assert_refused(demo('--bank', bank), bank, 'not a readable safetensors file')


def test_image_demo_bad_checkpoint(demo, reference, wide_files, model_files, tmp_path):
    prompt = ('--prompt', reference)
    assert_refused(demo(*prompt, checkpoint=tmp_path / 'absent.pth'), 'absent.pth: no such checkpoint')
    assert_refused(demo(*prompt, checkpoint=wide_files.checkpoint), 'another architecture', '64) instead of (')
    damaged = tmp_path / 'damaged.pth'
    with open(model_files.checkpoint, 'rb') as file:
        damaged.write_bytes(file.read(100_000))
    assert_refused(demo(*prompt, checkpoint=damaged), 'damaged.pth: not a checkpoint, or a damaged one')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda cfg: cfg.model.backbone.update(type='ResNett'), "unknown type 'ResNett'; did you mean 'ResNet'"),
        (lambda cfg: cfg.model.update(type='DINOR2'), "unknown type 'DINOR2'; did you mean 'DINOR1'"),
        (lambda cfg: cfg.model.update(num_querys=3), "takes no argument 'num_querys'"),
        (lambda cfg: cfg.model.neck.update(num_out=3), "takes no argument 'num_out'"),
        (lambda cfg: cfg.model.prompts.update(text_prompts='word'), "text_prompts must be 'token' or 'class'"),
        (lambda cfg: cfg.update(defualt_scope='x'), "unknown key 'defualt_scope'; did you mean"),
        (lambda cfg: cfg.test_dataloader.dataset.pipeline[1].update(type='Rezise'), "did you mean 'Resize'"),
        (lambda cfg: cfg.test_dataloader.dataset.pipeline[1].update(scael=3), "takes no argument 'scael'"),
        (lambda cfg: cfg.pop('model'), 'has no model'),
    ],
)
def test_image_demo_bad_config(demo, reference, model_files, tmp_path, change, message):
    cfg = Config.fromfile(model_files.config)
    change(cfg)
    if 'defualt_scope' in cfg:
        cfg.pop('default_scope')
    cfg.dump(tmp_path / 'changed.py')
    assert_refused(demo('--prompt', reference, config=tmp_path / 'changed.py'), message)


def test_image_demo_missing_or_broken_config(demo, reference, tmp_path):
    path = tmp_path / 'config.py'
    assert_refused(demo('--prompt', reference, config=path), f'{path}: no such config file')
    path.write_text('model = dict(')
    assert_refused(demo('--prompt', reference, config=path), path, 'cannot be read as a config')


# ------------------------------------------------------------------------ annotations


def with_box(box):
    def change(content):
        content['annotations'][4]['bbox'] = box

    return change


BAD_ANNOTATIONS = [
    (with_box([5, 5, 0, 9]), 'box without area'),
    (with_box([5, 5, 9, -3]), 'box without area'),
    (with_box([60, 5, 30, 9]), 'box partly outside its image'),
    (with_box([5, 5, 'x', 9]), 'malformed box'),
    (lambda content: content['annotations'][4].update(category_id=77), 'no category has the id 77'),
    (lambda content: content['images'][0].update(file_name='absent.png'), 'absent.png: no such file'),
    (lambda content: content.pop('images'), "no list 'images'"),
    (None, 'not valid JSON at line 1'),
]


@pytest.fixture
def spoil(run_config, data_dir, tmp_path):
    """``spoil(split, change)`` copies the data, damages an annotation file and returns the config of the copy."""

    def run(split, change):
        root = tmp_path / 'data'
        shutil.copytree(data_dir, root)
        content = coco_content(5 if split == 'train' else 2)
        if change is not None:
            change(content)
        text = json.dumps(content)
        # Without a change to the content, truncate the file.
        file = root / f'shapes/annotations/{split}.json'
        file.write_text(text if change is not None else text[: len(text) // 2])
        path = tmp_path / 'spoilt.py'
        path.write_text(run_config.read_text().replace(str(data_dir), str(root)))
        return path

    return run


@pytest.mark.parametrize(('change', 'message'), BAD_ANNOTATIONS)
def test_build_prompt_bank_rejects_bad_annotations(call, spoil, model_files, tmp_path, change, message):
    bank = tmp_path / 'bank.safetensors'
    outcome = call('build_prompt_bank', spoil('train', change), model_files.checkpoint, '--out', bank)
    assert_refused(outcome, message, tmp_path / 'data')
    assert not bank.exists()


@pytest.mark.parametrize(
    ('tool', 'split', 'change', 'message'),
    [
        ('test', 'val_base', *BAD_ANNOTATIONS[4]),
        ('test', 'train', *BAD_ANNOTATIONS[-1]),
        ('train', 'train', *BAD_ANNOTATIONS[0]),
    ],
)
def test_bad_annotations_stop_training_and_test(call, spoil, model_files, tmp_path, tool, split, change, message):
    arguments = [spoil(split, change), *([model_files.checkpoint] if tool == 'test' else [])]
    outcome = call(tool, *arguments, '--work-dir', tmp_path / 'run', *unique(tmp_path))
    assert_refused(outcome, message, f'annotations/{split}.json')
    assert not list(tmp_path.glob('run/**/*.pth'))
    assert not (tmp_path / 'run/metrics.json').exists()


@pytest.mark.parametrize('num_workers', [0, 1])
def test_test_tool_unreadable_image(call, spoil, model_files, tmp_path, num_workers):
    config = spoil('val_base', lambda content: None)
    image = tmp_path / 'data/shapes/images/val_base/1.png'
    image.write_bytes(b'not an image')
    outcome = call(
        'test',
        *(config, model_files.checkpoint, '--work-dir', tmp_path / 'run', *unique(tmp_path)),
        f'test_dataloader.num_workers={num_workers}',
    )
    assert_refused(outcome, f'{image}: not an image that can be read')


@pytest.mark.parametrize('tool', ['test', 'build_prompt_bank'])
def test_truncated_image_of_a_data_set_is_named(call, spoil, model_files, tmp_path, tool):
    split = 'train' if tool == 'build_prompt_bank' else 'val_base'
    config = spoil(split, lambda content: None)
    image = tmp_path / f'data/shapes/images/{split}/1.png'
    image.write_bytes(image.read_bytes()[:1000])
    options = {
        'test': ['--work-dir', tmp_path / 'run', *unique(tmp_path), 'test_dataloader.num_workers=0'],
        'build_prompt_bank': ['--out', tmp_path / 'bank.safetensors', '--device', 'cpu'],
    }
    outcome = call(tool, config, model_files.checkpoint, *options[tool])
    assert_refused(outcome, f'{image}: a truncated or damaged image (format PNG); restore the file')
    assert not (tmp_path / 'bank.safetensors').exists()


def unique(tmp_path):
    """Option that names the experiment: MMEngine keeps one logger per name and names experiments by the second."""
    return '--cfg-options', f'experiment_name={tmp_path.parent.name}-{tmp_path.name}'


# ------------------------------------------------------------------------ build_prompt_bank, test, train


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--num-exemplars', '0'], 'num_exemplars must be at least 1'),
        (['--out', 'bank.pt'], 'expected a file name that ends in .safetensors'),
        (['--cfg-options', 'prompt_datasets.ann_file=x'], "did you mean 'prompt_dataset'"),
        (['--cfg-options', 'prompt_dataset.ann_file=absent.json'], 'absent.json: no such file'),
    ],
)
def test_build_prompt_bank_bad_options(call, run_config, model_files, tmp_path, options, message):
    bank = tmp_path / 'bank.safetensors'
    outcome = call('build_prompt_bank', run_config, model_files.checkpoint, '--out', bank, *options)
    assert_refused(outcome, message)
    assert not bank.exists()


def test_build_prompt_bank_requires_prompt_dataset(call, model_files, tmp_path):
    bank = tmp_path / 'bank.safetensors'
    outcome = call('build_prompt_bank', model_files.config, model_files.checkpoint, '--out', bank)
    assert_refused(outcome, 'has no prompt_dataset')


def test_test_tool_bad_checkpoint(call, run_config, wide_files, tmp_path):
    outcome = call('test', run_config, tmp_path / 'typo/absent.pth')
    assert_refused(outcome, 'absent.pth: no such checkpoint')
    assert not (tmp_path / 'typo').exists()
    outcome = call('test', run_config, wide_files.checkpoint, '--work-dir', tmp_path / 'run', *unique(tmp_path))
    assert_refused(outcome, 'another architecture')
    assert not results_in(tmp_path / 'run')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--cfg-options', 'model.num_querys=3'], "did you mean 'num_queries'"),
        (['--cfg-options', 'modle.num_queries=3'], "did you mean 'model'"),
        (['--cfg-options', 'optim_wrapper.optimizer.type=AdmaW'], 'optimizer.type is not a known optimizer'),
        (['--cfg-options', 'optim_wrapper.optimizer.wieght=1'], "takes no argument 'wieght'"),
        (['--cfg-options', 'val_cfg.prompts.type=VisualGenerik'], "did you mean 'VisualGeneric'"),
        (['--cfg-options', 'val_cfg.prompts.exemplars=3'], "takes no argument 'exemplars'"),
        (['--cfg-options', 'val_cfg.promts.seed=3'], "has no key 'promts'; did you mean 'prompts'"),
        (['--cfg-options', 'prompt_dataset=None'], 'VisualGeneric needs prompt_dataset'),
        (['--cfg-options', 'load_from={absent}'], 'absent.pth: no such checkpoint; the config starts from it'),
        (['--resume', '{absent}'], 'absent.pth: no such checkpoint; check --resume'),
        (['--resume', '{weights}'], 'model.pth: has no meta, message_hub, so no run can be resumed'),
        (['--seed', '-1'], '--seed must be a whole number in [0, 2^32), got -1'),
        (['--cfg-options', 'randomness.seed=x'], "randomness.seed must be a whole number in [0, 2^32), got 'x'"),
        (['--cfg-options', 'train_dataloader.batch_size=0'], 'train_dataloader.batch_size must be a whole number of'),
        (['--cfg-options', 'val_dataloader.num_workers=-1'], 'val_dataloader.num_workers must be a whole number of'),
        (['--cfg-options', 'optim_wrapper.optimizer.lr=-1'], 'optim_wrapper.optimizer.lr must be a finite number of'),
        (['--cfg-options', 'optim_wrapper.optimizer.lr=nan'], 'optim_wrapper.optimizer.lr is NaN; give a number'),
        (['--cfg-options', 'train_cfg.max_epochs=0'], 'train_cfg.max_epochs must be a whole number of at least 1'),
    ],
)
def test_train_bad_options(call, run_config, model_files, tmp_path, options, message):
    paths = dict(absent=tmp_path / 'absent.pth', weights=model_files.checkpoint)
    options = [option.format(**paths) for option in options]
    if '--cfg-options' in options:
        options.append(unique(tmp_path)[1])
    else:
        options += unique(tmp_path)
    outcome = call('train', run_config, '--work-dir', tmp_path / 'run', *options)
    assert_refused(outcome, message)
    assert not list(tmp_path.glob('run/**/*.pth'))


def test_image_demo_in_new_process_missing_target(repo, model_files, reference, tmp_path):
    """In a new process, the output is a single line, and the exit status is 2."""
    command = [sys.executable, repo / 'tools/image_demo.py', tmp_path / 'absent.jpg', '--prompt', reference]
    files = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
    done = subprocess.run([*command, *files], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr == f'error: {tmp_path / "absent.jpg"}: no such image; check the path\n'
    assert not (tmp_path / 'work_dirs').exists()


def test_image_demo_in_new_process_bad_box(repo, model_files, image_folder, tmp_path):
    command = [
        sys.executable,
        repo / 'tools/image_demo.py',
        image_folder,
        '--prompt',
        f'{image_folder}/0.png:5,5,30,400',
    ]
    files = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
    done = subprocess.run([*command, *files], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    # The folder has a text file too.
    assert done.stdout.endswith(f'{image_folder}: left out 1 of 5 files, which are not images (1 .txt)\n')
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.startswith('error: '), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / 'work_dirs').exists()
