"""Files are whole or absent, are JSON that every program reads, and have one writer."""

import json
import subprocess
import sys

import pytest
from safetensors.torch import save_file

from dinor1.errors import InputError
from dinor1.fileio import atomic_path, locked, read_json, visible, write_json


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / 'new/a.json'
    write_json({'a': 1}, path)
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text('half')
        raise RuntimeError
    assert read_json(path) == {'a': 1} and [p.name for p in path.parent.iterdir()] == ['a.json']


def test_a_file_that_is_being_written_is_not_seen(tmp_path):
    write_json({}, tmp_path / 'b.json')
    with atomic_path(tmp_path / 'a.json') as temporary:
        assert temporary.suffix == '.json' and temporary in tmp_path.glob('*.json')
        assert visible(tmp_path, '*.json') == [tmp_path / 'b.json']
    assert visible(tmp_path, '*.json') == [tmp_path / 'a.json', tmp_path / 'b.json']


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / 'plain').touch()
    write_json({}, tmp_path / 'a.json')
    save_file({}, tmp_path / 'private.safetensors')
    with atomic_path(tmp_path / 'a.safetensors') as temporary:
        (tmp_path / 'private.safetensors').replace(temporary)
        temporary.chmod(0o600)
    for name in ('a.json', 'a.safetensors'):
        assert (tmp_path / name).stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    write_json({'a': [1.5, float('nan')], 'b': (float('inf'), 'NaN', 2)}, tmp_path / 'a.json')
    text = (tmp_path / 'a.json').read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {'a': [1.5, None], 'b': [None, 'NaN', 2]}


def test_a_folder_has_one_holder(tmp_path):
    pytest.importorskip('fcntl')
    with locked(tmp_path), pytest.raises(InputError, match='another process works in this folder'), locked(tmp_path):
        pass
    # The lock ends with its process, however that ends.
    code = f'import os; from dinor1.fileio import locked\nwith locked({str(tmp_path)!r}): os._exit(1)'
    subprocess.run([sys.executable, '-c', code], check=False)
    with locked(tmp_path):
        pass
