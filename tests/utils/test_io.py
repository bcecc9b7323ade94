"""Atomic writes, valid JSON, locks, and one-line errors."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from dinor1.cli.exit_status import one_line_errors
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, check_output, locked, read_json, visible, write_image, write_json


def test_atomic_path_failure_keeps_old_file(tmp_path):
    path = tmp_path / 'new/a.json'
    write_json({'a': 1}, path)

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text('half')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert read_json(path) == {'a': 1}
    assert [p.name for p in path.parent.iterdir()] == ['a.json']


def test_visible_excludes_temporary_files(tmp_path):
    write_json({}, tmp_path / 'b.json')
    with atomic_path(tmp_path / 'a.json') as temporary:
        assert temporary.suffix == '.json'
        assert temporary in tmp_path.glob('*.json')
        assert visible(tmp_path, '*.json') == [tmp_path / 'b.json']
    assert visible(tmp_path, '*.json') == [tmp_path / 'a.json', tmp_path / 'b.json']


def test_atomic_path_sets_default_permissions(tmp_path):
    (tmp_path / 'plain').touch()
    write_json({}, tmp_path / 'a.json')
    save_file({}, tmp_path / 'private.safetensors')
    with atomic_path(tmp_path / 'a.safetensors') as temporary:
        (tmp_path / 'private.safetensors').replace(temporary)
        temporary.chmod(0o600)
    for name in ('a.json', 'a.safetensors'):
        assert (tmp_path / name).stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_durable_write_reaches_the_disk_before_it_replaces_the_file(tmp_path, monkeypatch):
    path, flushed = tmp_path / 'a.json', []
    write_json({'a': 1}, path)

    def flush(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append(('folder' if is_folder else 'file', read_json(path)))

    monkeypatch.setattr(os, 'fsync', flush)
    write_json({'a': 2}, path)
    assert flushed == []
    write_json({'a': 3}, path, durable=True)
    assert flushed == [('file', {'a': 2}), ('folder', {'a': 3})]


def test_write_json_non_finite_becomes_null(tmp_path):
    write_json({'a': [1.5, float('nan')], 'b': (float('inf'), 'NaN', 2)}, tmp_path / 'a.json')
    text = (tmp_path / 'a.json').read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {'a': [1.5, None], 'b': [None, 'NaN', 2]}


def test_locked_excludes_other_processes(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match='another process works in this folder'), locked(tmp_path):
        pass
    # The lock is released when its process ends, also without cleaning up.
    code = f'import os; from dinor1.utils.io import locked\nwith locked({str(tmp_path)!r}): os._exit(1)'
    subprocess.run([sys.executable, '-c', code], check=False)
    with locked(tmp_path):
        pass


def test_locked_can_wait(tmp_path):
    pytest.importorskip('fcntl')
    events = []

    def second():
        with locked(tmp_path, wait=True):
            events.append('second')

    with locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        events.append('first')
    thread.join()
    assert events == ['first', 'second']


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, 'No space left on device'),
        SafetensorError('I/O error: No space left on device (os error 28)'),
    ],
)
def test_atomic_path_full_disk_error_names_path(tmp_path, error):
    path = tmp_path / 'a.json'
    with pytest.raises(OSError, match='No space left') as caught, atomic_path(path):
        raise error
    assert caught.value.filename == str(path)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_write_json_parent_is_file_error_names_path(tmp_path):
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file/a.json', tmp_path / 'file/new/a.json'):
        with pytest.raises(NotADirectoryError) as caught:
            write_json({}, path)
        assert caught.value.filename == str(path)


def test_atomic_path_error_of_other_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / 'a.json'):
        (tmp_path / 'absent').read_text()
    assert caught.value.filename == str(tmp_path / 'absent')


def test_write_image_is_complete_or_an_error(tmp_path, monkeypatch):
    write_image(np.zeros((2, 3, 3), np.uint8), tmp_path / 'new/a.png')
    assert (tmp_path / 'new/a.png').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(InputError, match='cannot be encoded'):
        write_image(np.zeros((2, 3, 3), np.uint8), tmp_path / 'a.unknown')
    monkeypatch.setattr('cv2.imencode', lambda *_: (False, None))
    with pytest.raises(InputError, match='cannot be encoded'):
        write_image(np.zeros((2, 3, 3), np.uint8), tmp_path / 'b.png')
    assert not list(tmp_path.glob('*.png'))


@pytest.mark.parametrize(
    ('error', 'status', 'line'),
    [
        (InputError('x: bad'), 2, 'error: x: bad'),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'a.json'), 2, 'error: a.json: No space left on device; free'),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), 'a.json'), 2, 'error: a.json: Read-only file system; give'),
        (PermissionError(errno.EACCES, 'Permission denied', 'a.json'), 2, 'error: a.json: Permission denied; change'),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
)
def test_run_command_error_is_one_line(capsys, error, status, line):
    from dinor1.cli.exit_status import run_command

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == status
    assert len(said) == 1
    assert said[0].startswith(line)


def test_one_line_errors_raises_errors_without_file():
    for error in (OSError('no number'), ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer')):
        with pytest.raises(type(error)), one_line_errors():
            raise error


def test_read_json_ignores_byte_order_mark(tmp_path):
    (tmp_path / 'a.json').write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa4"}')
    assert read_json(tmp_path / 'a.json') == {'a': '\u00e4'}


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'{"a":\n x}', 'not valid JSON at line 2, column 2'),
        (b'[' * 100_000 + b']' * 100_000, 'nested too deeply'),
        (b'{"a":\n "\xff"}', 'not valid JSON at line 2, column 3 (not UTF-8)'),
        (b'', 'not valid JSON at line 1, column 1'),
    ],
)
def test_read_json_rejects_invalid_json(tmp_path, data, message):
    path = tmp_path / 'a.json'
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f'{path}: ')


def test_check_output_creates_nothing(tmp_path):
    (tmp_path / 'file').touch()
    check_output(tmp_path / 'new/deep/a.json')
    check_output('a.json')
    for path, message in [(tmp_path, 'is a folder'), (tmp_path / 'file/new/a.json', 'file is not a folder')]:
        with pytest.raises(InputError, match=message) as caught:
            check_output(path, '--out')
        assert str(caught.value).startswith(f'--out {path}: ')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_unrelated_os_errors_are_raised_unchanged(tmp_path):
    """Errors of sockets, and errors about an existing file, are raised unchanged."""
    with pytest.raises(FileNotFoundError), one_line_errors():
        raise FileNotFoundError(errno.ENOENT, 'No such file or directory')
    with pytest.raises(ConnectionRefusedError, match='refused'), atomic_path(tmp_path / 'a.json'):
        raise ConnectionRefusedError(errno.ECONNREFUSED, 'Connection refused')
    (tmp_path / 'there').touch()
    with pytest.raises(FileExistsError), atomic_path(tmp_path / 'there'):
        (tmp_path / 'there').touch(exist_ok=False)
