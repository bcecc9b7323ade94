"""COCO val2017 from a folder and from archives: small copies, served from file:// URLs."""

import json
import zipfile

import pytest

from dinor1.datasets import coco_val as module
from dinor1.datasets.coco_val import Archive, coco_val
from dinor1.utils.errors import InputError
from dinor1.utils.io import sha256

NAMES = ('000000000001.jpg', '000000000002.jpg')


def archive(path, members, content):
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr(f'{members.split("/")[0]}/', '')
        for name, data in content.items():
            file.writestr(name, data)
    return Archive(path.as_uri(), sha256(path), members)


@pytest.fixture
def archives(tmp_path):
    """The two archives, each with members that are not needed."""
    (tmp_path / 'server').mkdir()
    content = json.dumps(dict(images=[dict(id=i, file_name=name) for i, name in enumerate(NAMES)]))
    boxes = {module.ANNOTATIONS.members: content, 'annotations/captions_val2017.json': '{}'}
    files = {f'val2017/{name}': name.encode() for name in NAMES}
    return dict(
        annotations=archive(tmp_path / 'server/annotations_trainval2017.zip', module.ANNOTATIONS.members, boxes),
        images=archive(tmp_path / 'server/val2017.zip', module.IMAGES.members, files),
    )


def test_coco_val_fetches_and_unpacks_once(archives, tmp_path, capfd):
    root = tmp_path / 'coco'
    data = coco_val(root, download=True, **archives)
    assert data == (root / 'annotations/instances_val2017.json', root / 'val2017', 2)
    assert [path.read_text() for path in sorted(data.img_dir.iterdir())] == list(NAMES)
    assert not (root / 'annotations/captions_val2017.json').exists()
    assert 'Unpacking 2 files' in capfd.readouterr().err
    # The second call reads the folder only.
    (root / 'val2017.zip').unlink()
    assert coco_val(root, **archives) == data
    assert capfd.readouterr().err == ''


def test_coco_val_resumes_interrupted_unpacking(archives, tmp_path, capfd):
    root = tmp_path / 'coco'
    coco_val(root, download=True, **archives)
    (root / 'val2017' / NAMES[1]).unlink()
    capfd.readouterr()
    # The archive in the folder is used without download.
    coco_val(root, **archives)
    assert 'Unpacking 1 files' in capfd.readouterr().err
    assert (root / 'val2017' / NAMES[1]).read_text() == NAMES[1]


def message(root, download=False, **archives):
    with pytest.raises(InputError) as error:
        coco_val(root, download, **archives)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_missing_file_error_gives_the_url(archives, tmp_path):
    root = tmp_path / 'coco'
    official = message(root)
    assert official.startswith(f'{root}/annotations/instances_val2017.json: no such file; give --download, or put ')
    assert f'{module.ANNOTATIONS.url} at {root}/annotations_trainval2017.zip' in official
    coco_val(root, download=True, **archives)
    (root / 'val2017' / NAMES[0]).unlink()
    (root / 'val2017.zip').unlink()
    assert '1 of 2 images are missing; give --download' in message(root, **archives)


def test_download_error_names_the_archive(tmp_path):
    closed = module.ANNOTATIONS._replace(url='http://127.0.0.1:9/annotations_trainval2017.zip')
    text = message(tmp_path, True, annotations=closed)
    assert text.startswith('annotations_trainval2017.zip: cannot be fetched (http://127.0.0.1:9/')
    assert text.endswith(f'put it at {tmp_path}/annotations_trainval2017.zip')


def test_damaged_files_are_rejected(archives, tmp_path):
    root = tmp_path / 'coco'
    root.mkdir()
    (root / 'annotations_trainval2017.zip').write_bytes(b'PK')
    assert 'damaged, or not the file of' in message(root, **archives)
    no_zip = archives['annotations']._replace(checksum=sha256(root / 'annotations_trainval2017.zip'))
    assert 'delete it to have it fetched again' in message(root, annotations=no_zip)
    (root / 'annotations').mkdir()
    (root / 'annotations/instances_val2017.json').write_text('{"images": []}')
    assert 'not a COCO file with images' in message(root, **archives)


def test_image_missing_from_the_archive_is_an_error(archives, tmp_path):
    root = tmp_path / 'coco'
    short = archive(tmp_path / 'server/short.zip', module.IMAGES.members, {f'val2017/{NAMES[0]}': b''})
    assert NAMES[1] in message(root, True, annotations=archives['annotations'], images=short)
