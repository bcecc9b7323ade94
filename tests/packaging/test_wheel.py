"""The built wheel: its content, and its use outside the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from dinor1.utils.config_files import config_names

FULL = 'DINOR1_TEST_FULL_INSTALLATION'


def run(*command, cwd, **environment):
    """Run a command without the paths of this process, and check that it succeeds; returns its output."""
    clean = {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'DINOR1_DATA')}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, env=clean | environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def wheel(repo, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    # Download nothing if setuptools is installed.
    isolation = ['--no-build-isolation'] if find_spec('setuptools') and find_spec('wheel') else []
    # Build from a copy, because a build writes files beside the sources.
    source = folder / 'source'
    for name in ('dinor1', 'configs'):
        shutil.copytree(repo / name, source / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    (source / 'docs').mkdir()
    for name in ('setup.cfg', 'pyproject.toml', 'LICENSE', 'docs/pypi.md'):
        shutil.copy(repo / name, source / name)
    run(sys.executable, '-m', 'pip', 'wheel', source, '--no-deps', *isolation, '-w', folder, cwd=folder)
    return next(folder.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
    """Folder of scripts of an environment with the wheel and with the dependencies of this environment."""
    root = tmp_path_factory.mktemp('environment')
    venv.create(root, with_pip=False)
    scripts = root / ('Scripts' if os.name == 'nt' else 'bin')
    site = Path(
        run(scripts / 'python', '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))', cwd=root).strip()
    )
    # Add the dependencies by a .pth file: its paths come last, and .pth files in them, such as that of an editable
    # dinor1, are not read.
    (site / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    run(sys.executable, '-m', 'pip', '--python', scripts / 'python', 'install', '--no-deps', wheel, cwd=root)
    return scripts


def test_wheel_contains_code_configs_and_the_page(wheel, repo):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f'dinor1/.mim/configs/{name}.py' for name in config_names()} <= names
    assert 'dinor1/evaluation/odinw/manifest.json' in names
    page = [path for path in (repo / 'dinor1/annotate/static').rglob('*') if path.is_file()]
    assert len(page) > 10
    assert {path.relative_to(repo).as_posix() for path in page} <= names
    folders = {name.split('/')[0] for name in names}
    assert {folder for folder in folders if not folder.endswith('.dist-info')} == {'dinor1'}
    assert wheel.stat().st_size < 16 * 2**20


def test_installed_command_detects(installed, model_files, image_folder, tmp_path):
    target = image_folder / '0.png'
    model = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
    options = ['--prompt', f'{target}:5,5,30,40:cat', '--score-thr', '0', '--out-dir', tmp_path / 'out']
    printed = run(installed / 'dinor1', 'detect', target, *model, *options, cwd=tmp_path)
    assert 'Found on 1 of 1 images' in printed
    assert (tmp_path / 'out/vis/0.png').is_file()
    assert (tmp_path / 'out/preds/0.json').is_file()


def test_installed_library_reads_configs_by_name(installed, tmp_path):
    """Configs are found by name, also by a config that inherits from one."""
    (tmp_path / 'own.py').write_text(
        "_base_ = 'dinor1::dino_r1/dino-r1_nano_1xb8_6e_shapes.py'\nmodel = dict(num_queries=7)\n"
    )
    code = """if True:
        import pathlib, sys
        import dinor1
        assert pathlib.Path(dinor1.__file__).is_relative_to(sys.prefix), dinor1.__file__
        assert not {'torch', 'mmengine', 'numpy'} & set(sys.modules)
        from dinor1 import DINOR1Inferencer, PromptBank, PromptSet, register_all
        from dinor1.utils.config import load_config
        named = load_config('dino_r1/dino-r1_nano_1xb8_6e_shapes')
        assert load_config('own.py').model.num_queries == 7 != named.model.num_queries
        from dinor1.registry import MODELS
        MODELS.build(named.model)
    """
    run(installed / 'python', '-c', code, cwd=tmp_path)
    assert run(installed / 'python', '-m', 'dinor1', '--version', cwd=tmp_path).startswith('dinor1 ')


@pytest.mark.slow
@pytest.mark.skipif(FULL not in os.environ, reason=f'downloads several GB: set {FULL}=1 to install everything again')
def test_full_installation_in_empty_environment(wheel, model_files, image_folder, tmp_path):
    venv.create(tmp_path / 'environment', with_pip=True)
    scripts = tmp_path / 'environment' / ('Scripts' if os.name == 'nt' else 'bin')
    run(scripts / 'python', '-m', 'pip', 'install', wheel, cwd=tmp_path)
    target = image_folder / '0.png'
    model = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
    options = ['--prompt', f'{target}:5,5,30,40:cat', '--score-thr', '0', '--out-dir', tmp_path / 'out']
    assert 'Found on 1 of 1 images' in run(scripts / 'dinor1', 'detect', target, *model, *options, cwd=tmp_path)
    run(scripts / 'dinor1', 'make-data', 'shapes', '--out', 'shapes', '--num-train', '2', cwd=tmp_path)
