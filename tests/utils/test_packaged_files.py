"""Files of installed packages: found without an import, and checked by the checksum in their names."""

import hashlib
import sys

import pytest

from dinor1.utils.errors import InputError
from dinor1.utils.packaged_files import check_sha256, find_packaged_file


def test_find_packaged_file_does_not_import_package(tmp_path, monkeypatch):
    folder = tmp_path / 'dinor1_example'
    folder.mkdir()
    (folder / '__init__.py').write_text('raise RuntimeError')
    (folder / 'weights.pth').write_bytes(b'')
    monkeypatch.syspath_prepend(tmp_path)
    assert find_packaged_file('dinor1_example', 'weights.pth') == folder / 'weights.pth'
    assert find_packaged_file('dinor1_example', 'missing.pth') is None
    assert 'dinor1_example' not in sys.modules
    assert find_packaged_file('dinor1_no_such_package', 'weights.pth') is None


@pytest.mark.parametrize('content', [b'', b'weights', b'x' * 3_000_000])
def test_check_sha256_digits(tmp_path, content):
    digest = hashlib.sha256(content).hexdigest()
    for digits in (digest, digest[:8]):
        path = tmp_path / f'lite-{digits}.pth'
        path.write_bytes(content)
        check_sha256(path)
        path.write_bytes(content + b'!')
        with pytest.raises(InputError, match=f'not with {digits} as its name says') as caught:
            check_sha256(path)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['lite.pth', 'lite-0123456.pth', 'lite-0123456g.pth'])
def test_check_sha256_rejects_name_without_checksum(tmp_path, name):
    (tmp_path / name).write_bytes(b'')
    with pytest.raises(InputError, match='no checksum'):
        check_sha256(tmp_path / name)
