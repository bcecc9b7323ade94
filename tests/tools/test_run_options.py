"""Settings of a run that MMEngine accepts: workers, parts of a data set, file backends, visualizers and schedules."""

import importlib.util
import json
import zipfile

import pytest
import torch

from tests.model_files import PIPELINE

# MMEngine warns that several runs in one process share a visualizer.
pytestmark = pytest.mark.filterwarnings('ignore:.*instance named of visualizer')


@pytest.fixture
def run_test(call, run_config, model_files, tmp_path):
    """``run_test(NAME, 'KEY=VALUE', ...)`` runs the test tool; returns its outcome and its metrics."""

    def run(name, *options):
        folder = tmp_path / name
        options = ('--cfg-options', f'experiment_name={tmp_path.name}-{name}', *options)
        outcome = call('test', run_config, model_files.checkpoint, '--work-dir', folder, *options)
        file = folder / 'metrics.json'
        return outcome, json.loads(file.read_text())['metrics'] if file.is_file() else None

    return run


@pytest.fixture
def run_train(call, run_config, tmp_path):
    """``run_train(NAME, *arguments, options=['KEY=VALUE', ...])`` trains an epoch of five images."""

    def run(name, *arguments, options=()):
        common = [f'experiment_name={tmp_path.name}-{name}', 'train_cfg.max_epochs=1', 'param_scheduler=[]']
        folder = tmp_path / 'run'
        return call('train', run_config, '--work-dir', folder, *arguments, '--cfg-options', *common, *options)

    return run


def assert_refused(outcome, *parts):
    """Check that the only line on standard error is an error that contains ``parts``."""
    assert outcome.status == 2, outcome
    assert outcome.err.startswith('error: '), outcome.err
    assert outcome.err.count('\n') == 1, outcome.err
    for part in parts:
        assert part in outcome.err


def test_no_workers_needs_no_other_setting(run_train, tmp_path):
    """Base configs set ``persistent_workers``, which torch rejects without workers."""
    loaders = ('train_dataloader', 'val_dataloader')
    options = [f'{loader}.{key}' for loader in loaders for key in ('num_workers=0', 'persistent_workers=True')]
    assert run_train('a', options=[*options, 'train_dataloader.prefetch_factor=4']).status == 0
    assert (tmp_path / 'run/epoch_1.pth').is_file()


def test_hooks_of_the_command_line_are_used(run_train, tmp_path):
    assert run_train('a', options=["custom_hooks=[dict(type='EMAHook', momentum=0.5)]"]).status == 0
    checkpoint = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)
    averaged = {name.removeprefix('module.') for name in checkpoint['ema_state_dict']}
    assert averaged >= checkpoint['state_dict'].keys()


def test_subset_of_test_images_is_counted(run_test):
    outcome, metrics = run_test('one', 'test_dataloader.dataset.indices=1')
    assert outcome.status == 0
    assert (metrics['coco/images_evaluated'], metrics['coco/images_in_file']) == (1, 2)
    _, metrics = run_test('all')
    assert 'coco/images_evaluated' not in metrics


def test_repeated_test_images_are_rejected(run_test, data_dir):
    inner = dict(
        type='CocoPromptDataset',
        data_root=str(data_dir / 'shapes'),
        ann_file='annotations/val_base.json',
        data_prefix=dict(img='images/val_base'),
        test_mode=True,
        pipeline=PIPELINE,
    )
    dataset = dict(type='RepeatDataset', times=2, dataset=inner, _delete_=True)
    outcome, metrics = run_test('twice', f'test_dataloader.dataset={dataset}')
    assert_refused(outcome, 'val_base.json: evaluated more than once: image 0 (', 'leave out RepeatDataset')
    assert metrics is None


# ------------------------------------------------------------------------ packages that are not installed


@pytest.fixture
def no_optional_packages(monkeypatch):
    """No package is found apart from MMCV, whose operators would be filled in a second time."""
    find_spec = importlib.util.find_spec

    def find_mmcv(name, package=None):
        return find_spec(name, package) if name.startswith('mmcv') else None

    monkeypatch.setattr('importlib.util.find_spec', find_mmcv)


@pytest.mark.parametrize('backend', ['Wandb', 'MLflow', 'ClearML', 'Neptune', 'DVCLive', 'Aim'])
@pytest.mark.usefixtures('no_optional_packages')
def test_visualizer_without_its_package_is_rejected(run_train, tmp_path, backend):
    options = [f"visualizer.vis_backends=[dict(type='LocalVisBackend'), dict(type='{backend}VisBackend')]"]
    outcome = run_train('a', options=options)
    assert_refused(outcome, f'visualizer.vis_backends.1: {backend}VisBackend needs the package', 'pip install')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        (
            'dataset.pipeline.0.backend_args=dict(backend="petrel")',
            "backend 'petrel' needs the package 'petrel_client'",
        ),
        ('dataset.backend_args=dict(backend="petrel")', "backend 'petrel' needs the package 'petrel_client'"),
        ('dataset.pipeline.0.backend_args=dict(backend="memcached")', "'memcached' needs the package 'mc'"),
        ('dataset.pipeline.0.backend_args=dict(backend="lmdb", db_path="a")', 'pip install lmdb, or copy the data'),
        ('dataset.pipeline.0.backend_args=dict(backend="s3")', "s3:// are read by the backend 'petrel'; give one of"),
        ('dataset.pipeline.0.backend_args=dict(backend="zipp")', "no file backend is named 'zipp'; give one of local"),
        ('dataset.data_root=s3://bucket/shapes', "s3://bucket/shapes is read by the package 'petrel_client'"),
    ],
)
@pytest.mark.usefixtures('no_optional_packages')
def test_file_backend_without_its_package_is_rejected(run_test, setting, message, tmp_path):
    outcome, _ = run_test('remote', f'test_dataloader.{setting}')
    assert_refused(outcome, message, 'test_dataloader.')
    assert not (tmp_path / 'remote').exists()


# ------------------------------------------------------------------------ images in a ZIP archive


def zipped(data_dir, path):
    """Write the images of the tests into an archive."""
    with zipfile.ZipFile(path, 'w') as archive:
        for image in sorted((data_dir / 'shapes/images/val_base').iterdir()):
            archive.write(image, f'val/{image.name}')
    return path


@pytest.mark.parametrize('num_workers', [0, 1])
def test_images_in_zip_archive_give_equal_metrics(run_test, data_dir, tmp_path, num_workers):
    archive = zipped(data_dir, tmp_path / 'images.zip')
    _, expected = run_test('files', 'test_dataloader.batch_size=1')
    options = [
        f'test_dataloader.dataset.data_prefix.img={archive}/val',
        "test_dataloader.dataset.pipeline.0.backend_args=dict(backend='zip')",
        f'test_dataloader.num_workers={num_workers}',
    ]
    outcome, metrics = run_test('archive', 'test_dataloader.batch_size=1', *options)
    assert outcome.status == 0, outcome.err
    assert metrics == expected


def test_image_missing_in_zip_archive_is_named(run_test, data_dir, tmp_path):
    archive = zipped(data_dir, tmp_path / 'images.zip')
    options = [
        f'test_dataloader.dataset.data_prefix.img={archive}/train',
        "test_dataloader.dataset.pipeline.0.backend_args=dict(backend='zip')",
    ]
    outcome, _ = run_test('archive', *options)
    assert_refused(outcome, f'{archive}/train/0.png: no such file; check the path')


# ------------------------------------------------------------------------ images in an LMDB database


def in_database(data_dir, path, prefix):
    """Write the images of the tests into a database, under their paths."""
    lmdb = pytest.importorskip('lmdb', reason='needs pip install lmdb')
    with lmdb.open(str(path)) as database, database.begin(write=True) as transaction:
        for image in sorted((data_dir / 'shapes/images/val_base').iterdir()):
            transaction.put(f'{prefix}/{image.name}'.encode(), image.read_bytes())


@pytest.mark.parametrize('num_workers', [0, 1])
def test_images_in_lmdb_give_equal_metrics(run_test, data_dir, tmp_path, num_workers):
    prefix = tmp_path / 'only_in_the_database'
    in_database(data_dir, tmp_path / 'lmdb', prefix)
    _, expected = run_test('files', 'test_dataloader.batch_size=1')
    options = [
        f'test_dataloader.dataset.data_prefix.img={prefix}',
        f"test_dataloader.dataset.pipeline.0.backend_args=dict(backend='lmdb', db_path='{tmp_path / 'lmdb'}')",
        f'test_dataloader.num_workers={num_workers}',
    ]
    outcome, metrics = run_test('database', 'test_dataloader.batch_size=1', *options)
    assert outcome.status == 0, outcome.err
    assert metrics == expected


def test_image_missing_in_lmdb_is_named(run_test, data_dir, tmp_path):
    in_database(data_dir, tmp_path / 'lmdb', tmp_path / 'a')
    options = [
        f'test_dataloader.dataset.data_prefix.img={tmp_path}/b',
        f"test_dataloader.dataset.pipeline.0.backend_args=dict(backend='lmdb', db_path='{tmp_path / 'lmdb'}')",
    ]
    outcome, _ = run_test('database', *options)
    assert_refused(outcome, f'{tmp_path}/b/0.png: no such image in the database; check the path')
