"""validate_dataset: images are found, opened and compared with the annotation file."""

import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from dinor1.annotations import images
from dinor1.annotations.images import locate
from tests.annotations.samples import edit, make_content, save, write_images


def test_truncated_image_is_found(validate, root):
    for name, size in (('2.png', 900), ('3.png', 0)):
        path = root / 'images' / name
        path.write_bytes(path.read_bytes()[:size])
    outcome = validate(root)
    assert outcome.status == 1
    assert 'unreadable image, 2 times\n    image 2 (entry 1): 2.png:' in outcome.out
    assert validate(root, '--no-images').status == 0


def with_orientation(path, orientation, size=(64, 48)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size).save(path, exif=exif)


@pytest.mark.parametrize(
    ('orientation', 'stated', 'kind', 'status'),
    [
        (6, (64, 48), 'EXIF rotation contradicts the boxes', 1),
        (6, (48, 64), 'EXIF rotation', 0),
        (3, (64, 48), 'EXIF rotation', 0),
        (1, (64, 48), None, 0),
    ],
)
def test_exif_rotation_is_compared_with_stated_size(validate, root, orientation, stated, kind, status):
    content = make_content()
    edit('images', 3, file_name='4.jpg', width=stated[0], height=stated[1])(content)
    with_orientation(root / 'images/4.jpg', orientation)
    outcome = validate(save(root, content))
    assert outcome.status == status
    assert ('EXIF' in outcome.out) == (kind is not None)
    assert f'{kind or "no defects"}' in outcome.out
    # Sizes are compared in the orientation in which training reads the image.
    seen = LoadImageFromFile()({'img_path': str(root / 'images/4.jpg')})['img'].shape[:2]
    assert (seen == stated[::-1]) == (kind != 'EXIF rotation contradicts the boxes')


def test_sample_opens_fewer_images_and_searches_all(validate, root):
    outcome = validate(root, '--sample', 2)
    assert outcome.status == 0
    assert '2 images opened' in outcome.out
    (root / 'images/3.png').unlink()
    assert 'missing image' in validate(root, '--sample', 0).out


def test_image_of_absurd_size_is_not_decoded(validate, root, monkeypatch):
    path = root / 'images/2.png'
    path.write_bytes(path.read_bytes()[:900])
    # By default, PIL raises an error.
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    assert validate(root).status == 1
    monkeypatch.setattr(images, 'MAX_PIXELS', 2000)
    outcome = validate(root)
    assert outcome.status == 0
    assert 'absurd image size, 4 times' in outcome.out
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_missing_image_folder_is_one_finding(validate, root):
    outcome = validate(save(root.parent / root.name / 'images', make_content(), 'x.json'), '--img-dir', root)
    assert outcome.out.count('missing image, 4 times') == 1
    lonely = save(root / 'annotations', make_content(), 'x.json')
    for file in (root / 'images').iterdir():
        if file.is_file():
            file.unlink()
    assert 'no image was found near the file' in validate(lonely).out


@pytest.mark.parametrize(
    ('file', 'folder'),
    [
        ('annotations/train.json', 'images'),
        ('annotations/train.json', 'images/train'),
        ('annotations/instances_train2017.json', 'train2017'),
        ('train/_annotations.coco.json', 'train'),
        ('train.json', '.'),
        ('train.json', 'photographs'),
    ],
)
def test_locate_finds_images_in_usual_layouts(tmp_path, file, folder):
    # Another split has images with the same names.
    for other in ('images/val', 'val2017', folder):
        write_images(tmp_path / other, make_content())
    (tmp_path / file).parent.mkdir(exist_ok=True)
    names = [[f'{i}.png'] for i in range(1, 5)]
    assert locate((tmp_path / file), names).resolve() == (tmp_path / folder).resolve()
