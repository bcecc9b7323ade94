"""Downloads: checksums, several addresses and messages, with file:// addresses and a closed port."""

import pytest

from dinor1.utils.download import fetch
from dinor1.utils.errors import InputError
from dinor1.utils.io import sha256

CLOSED = 'http://127.0.0.1:9/weights.pth'  # the port of "discard", where nothing listens


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'server/weights.pth'
    path.parent.mkdir()
    path.write_bytes(b'weights' * 1000)
    return path


def test_fetch_downloads_once(source, tmp_path, capsys):
    target = tmp_path / 'new/folder/weights.pth'
    digest = sha256(source)
    assert fetch([source.as_uri()], target, digest[:8]) == target
    assert target.read_bytes() == source.read_bytes()
    assert f'Fetching {source.as_uri()} to {target}' in capsys.readouterr().err
    source.unlink()
    assert fetch([source.as_uri()], target, digest) == target
    assert capsys.readouterr().err == ''


def test_fetch_tries_next_address(source, tmp_path):
    target = tmp_path / 'weights.pth'
    fetch([CLOSED, (tmp_path / 'absent.pth').as_uri(), source.as_uri()], target)
    assert target.read_bytes() == source.read_bytes()


def test_fetch_unreachable_address_is_one_line_error(tmp_path):
    target = tmp_path / 'weights.pth'
    with pytest.raises(InputError) as error:
        fetch([CLOSED], target)
    text = str(error.value)
    assert '\n' not in text
    assert text.startswith(f'weights.pth: cannot be fetched ({CLOSED}: ')
    assert text.endswith(f'download it on another machine and put it at {target}')


def test_fetch_rejects_wrong_checksum(source, tmp_path):
    target = tmp_path / 'new/weights.pth'
    with pytest.raises(InputError, match='another checksum than 00000000'):
        fetch([source.as_uri()], target, '00000000')
    assert list(target.parent.iterdir()) == []
    target.write_bytes(b'half')
    with pytest.raises(InputError, match='damaged, or not the file of .*; delete it'):
        fetch([source.as_uri()], target, sha256(source))


def test_fetch_unwritable_folder_is_os_error(source, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='file'):
        fetch([source.as_uri()], tmp_path / 'file/weights.pth')
