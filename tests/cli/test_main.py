"""The command ``dinor1``: fast help and completion, errors, and configs by name."""

import json
import os
import subprocess
import sys

import pytest

import dinor1
from dinor1.cli.main import COMMANDS, main
from dinor1.utils.config_files import CONFIGS, config_names, find_config
from dinor1.utils.errors import InputError

# Run a module, and print on standard error which slow libraries it has loaded.
SPY = (
    'import atexit, runpy, sys; heavy = {"torch", "mmdet", "mmengine", "transformers"}; '
    "atexit.register(lambda: print('loaded', *sorted(heavy & set(sys.modules)), file=sys.stderr)); "
    "runpy.run_module('dinor1', run_name='__main__', alter_sys=True)"
)


def call(*arguments, **environment):
    command = [sys.executable, '-c', SPY, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | environment, check=False
    )


@pytest.mark.parametrize('arguments', [['--help'], ['--version'], *([name, '--help'] for name in COMMANDS)])
def test_help_loads_no_deep_learning_library(arguments):
    outcome = call(*arguments)
    assert outcome.returncode == 0
    assert outcome.stdout.startswith(('usage: dinor1', f'dinor1 {dinor1.__version__}'))
    assert outcome.stderr.strip() == 'loaded'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'required: COMMAND'),
        (['trian'], "invalid choice: 'trian'"),
        (['train'], 'required: config'),
        (['train', 'config.py', '--cfg-options', 'no value'], 'KEY=VALUE'),
        (['convert', 'coco2yolo'], "invalid choice: 'coco2yolo'"),
        (['make-data'], 'required: DATASET'),
        (['study'], 'required: ACTION'),
    ],
)
def test_command_line_error_loads_no_deep_learning_library(arguments, message):
    outcome = call(*arguments)
    assert outcome.returncode == 2
    assert message in outcome.stderr
    assert outcome.stderr.strip().splitlines()[-1] == 'loaded'


def test_command_user_error_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(['validate', str(tmp_path / 'absent.json')])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1


@pytest.mark.skipif(os.name == 'nt', reason='needs a shell with pipes')
def test_run_command_with_closed_pipe_prints_no_error():
    """As with ``dinor1 ... | head``: standard error is empty, and the status is that of a program ended by SIGPIPE."""
    code = (
        'from dinor1.cli.exit_status import run_command\n'
        "run_command(lambda: [print('line', flush=True) for _ in range(9999)])"
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'line\n'
    process.stdout.close()
    assert process.stderr.read() == ''
    assert process.wait(timeout=60) == 141


def test_make_data_writes_the_shapes_world(capsys, tmp_path):
    sizes = [f'--num-{split}=2' for split in ('train', 'val-base', 'val-novel')]
    main(['make-data', 'shapes', '--out', str(tmp_path / 'shapes'), *sizes, '--num-support-novel', '20'])
    assert '26 images, 16 categories written to' in capsys.readouterr().out
    assert (tmp_path / 'shapes/annotations/train.json').is_file()


@pytest.mark.parametrize(
    ('line', 'completions'),
    [
        ('dinor1 ma', {'make-data'}),
        ('dinor1 train --res', {'--resume'}),
        ('dinor1 train dino_r1/dino-r1_nano_1xb8_6e_sh', {'dino_r1/dino-r1_nano_1xb8_6e_shapes'}),
        ('dinor1 test --amp ', {'bfloat16'}),
    ],
)
def test_shell_completion_proposes_commands_options_and_configs(line, completions, tmp_path):
    """Argcomplete reads the line from the environment and writes the completions to a file."""
    outcome = call(
        _ARGCOMPLETE='1',
        _ARGCOMPLETE_STDOUT_FILENAME=str(tmp_path / 'out'),
        _ARGCOMPLETE_IFS='\n',
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    found = {text.strip() for text in (tmp_path / 'out').read_text().splitlines()}
    assert found >= completions, outcome.stderr


# ------------------------------------------------------------------------ configs by name


def test_find_config_by_name_and_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'dino_r1/dino-r1_nano_1xb8_6e_shapes'
    expected = CONFIGS / f'{name}.py'
    for form in (name, f'{name}.py', f'configs/{name}.py', f'./{name}'):
        assert find_config(form) == expected
    # A file of the user has precedence.
    own = tmp_path / f'{name}.py'
    own.parent.mkdir()
    own.write_text('')
    assert find_config(f'{name}.py').resolve() == own
    assert name in config_names()
    assert not [known for known in config_names() if known.startswith(('_base_', 'studies'))]


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('dino_r1/dino-r1_nano_1xb8_6e_shape', 'did you mean dino_r1/dino-r1_nano_1xb8_6e_shapes?'),
        ('dino-r1_nano_1xb8_6e_shapes.py', 'did you mean dino_r1/dino-r1_nano_1xb8_6e_shapes?'),
        ('../setup.cfg', ''),
        ('nothing of the kind', ''),
        ('/etc/absent.py', ''),
    ],
)
def test_find_config_unknown_name_proposes_similar_one(name, hint):
    with pytest.raises(InputError, match='no such config file') as error:
        find_config(name)
    assert str(error.value) == f'{name}: no such config file' + (f'; {hint}' if hint else '')


def test_output_in_ascii_does_not_end_a_command(tmp_path):
    """Class names that the terminal cannot show are escaped."""
    content = dict(
        images=[dict(id=1, file_name='a.png', width=9, height=9)],
        annotations=[],
        categories=[dict(id=1, name='кот')],
    )
    (tmp_path / 'a.json').write_text(json.dumps(content))
    outcome = call('validate', tmp_path / 'a.json', '--no-images', PYTHONIOENCODING='ascii')
    assert outcome.returncode == 0, outcome.stderr
    assert r'\u043a\u043e\u0442' in outcome.stdout
