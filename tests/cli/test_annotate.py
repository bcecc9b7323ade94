"""`dinor1 annotate`: errors of one line, and a server that starts, responds and stops."""

import importlib.util
import signal
import socket

import cv2
import pytest

from dinor1.cli.main import main
from tests.annotate.live import start_command
from tests.model_files import random_image


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    cv2.imwrite(str(folder / '0.png'), random_image(40, 50))
    return folder


def refused(capsys, *arguments):
    """Run the command; returns its error line."""
    with pytest.raises(SystemExit) as stop:
        main(['annotate', *map(str, arguments)])
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.count('\n') == 1
    return message


def test_annotate_bad_input_is_one_line(folder, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'bad.json').write_text('{')
    assert 'no image in this folder' in refused(capsys, tmp_path / 'empty')
    assert 'no such folder' in refused(capsys, tmp_path / 'missing')
    assert 'needs --checkpoint' in refused(capsys, folder, '--config', 'x.py')
    assert '--port must be at least 0' in refused(capsys, folder, '--port', '-1')
    assert '--port must be at most 65535' in refused(capsys, folder, '--port', '65536')
    assert 'bad.json: not valid JSON' in refused(capsys, folder, '--import', tmp_path / 'bad.json')
    assert 'is not a folder' in refused(capsys, folder, '--work-dir', tmp_path / 'bad.json')
    assert 'no such config' in refused(capsys, folder, '--config', 'missing.py', '--checkpoint', 'missing.pth')


def test_annotate_port_in_use_is_an_error_of_one_line(folder, capsys):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        assert f'--port {port}: already in use; give another port, or 0' in refused(capsys, folder, '--port', port)


def test_annotate_without_its_packages_says_how_to_install_them(folder, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'uvicorn' else find(name, *a))
    assert "needs the package 'uvicorn'; pip install 'dinor1[annotate]'" in refused(capsys, folder)
    assert not (folder / '.dinor1').exists()


def test_annotate_serves_until_it_is_interrupted(folder, model_files):
    httpx = pytest.importorskip('httpx')
    pytest.importorskip('uvicorn')
    running = start_command(folder, model_files, '--work-dir', str(folder.parent / 'state'))
    with httpx.Client(follow_redirects=True) as client:
        assert 'dinor1 annotate' in client.get(running.address).text
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0
    assert 'Run the same command again to continue.' in running.process.stdout.read()
    assert (folder.parent / 'state' / 'README.md').is_file()
