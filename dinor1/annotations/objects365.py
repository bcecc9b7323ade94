"""Conversion of the official Objects365 files for ``configs/_base_/datasets/objects365_detection.py``.

Version 1 (2019): ``objects365_{train,val}.json``, images such as ``obj365_train_000000586313.jpg`` in one folder per
split; the two files list the same categories in different orders. Version 2 (2020): ``zhiyuan_objv2_{train,val}.json``,
images named ``images/v1/patch8/objects365_v1_00420917.jpg``, which the archives unpack to ``patch8/``.
"""

from collections import Counter
from pathlib import Path

from dinor1.utils.errors import InputError

from .content import Content
from .images import Folder
from .training_check import check_for_training

# Images that version 2's training file lists, but none of its archives has.
MISSING = frozenset(
    {
        'patch6/objects365_v1_00320532.jpg',
        'patch6/objects365_v1_00320534.jpg',
        'patch16/objects365_v2_00908726.jpg',
    }
)

# Official name -> corrected name. Names are text prompts, and a language model does not know a "bakset".
CORRECTIONS = {
    # version 1
    'head phone': 'headphone',
    'hotair balloon': 'hot air balloon',
    'life saver': 'lifesaver',
    'pine apple': 'pineapple',
    # version 2
    'Bakset': 'Basket',
    'Ballon': 'Balloon',
    'Billards': 'Billiards',
    'Buttefly': 'Butterfly',
    'Campel': 'Camel',
    'Dinning Table': 'Dining Table',
    'Extention Cord': 'Extension Cord',
    'French': 'French Horn',
    'Head Phone': 'Headphone',
    'Hotair ballon': 'Hot air balloon',
    'Moniter/TV': 'Monitor/TV',
    'Mushroon': 'Mushroom',
    'Noddles': 'Noodles',
    'Table Teniis paddle': 'Table Tennis paddle',
    'Tape Measur/ Ruler': 'Tape Measure/Ruler',
}

_IMAGE_KEYS = ('id', 'width', 'height')


def corrected(name: str) -> str:
    """Correct the name of a category: no outer spaces, ``/`` instead of commas between alternatives, no typos."""
    name = '/'.join(part.strip() for part in ' '.join(name.split()).split(',') if part.strip())
    return CORRECTIONS.get(name, name)


def convert(content: Content, img_dir: Path | None = None, correct_names: bool = True) -> tuple[dict, Counter]:
    """Convert an official file to a COCO file that the data set config can read.

    File names are relative to the folder of the split. Images without a file and boxes without area are left out, boxes
    are clipped to their image, and categories are sorted by id.

    Args:
        content: An official file, in memory.
        img_dir: Folder of the split; images without a file there are left out. Default: files are not looked up, and
            only images that are known to be missing are left out.
        correct_names: Apply :func:`corrected` to the names of categories.

    Returns:
        The content of the new file, and how often something was left out or changed.

    Raises:
        InputError: the file is not one of Objects365, or is wrong as a whole.
    """
    # Check the file.
    for finding in content.findings:
        raise InputError(f'{content.path}: {finding.detail}; {finding.advice}')
    defects, data = check_for_training(content.data, str(content.path)), content.data
    # Images.
    counts = Counter()
    folder = Folder(img_dir) if img_dir else None
    images, sizes = [], {}
    for image in data['images']:
        name = short_name(image['file_name'])
        if name in MISSING or (folder is not None and folder.find([name]) is None):
            counts['image without a file'] += 1
            continue
        images.append({key: image[key] for key in _IMAGE_KEYS} | {'file_name': name})
        sizes[image['id']] = (image['width'], image['height'])
    if not images:
        raise InputError(f'{content.path}: none of its images, such as {name}, is in {img_dir}; correct --img-dir')

    # Annotations.
    annotations = []
    for index, annotation in enumerate(data['annotations']):
        kind = defects[index][0] if index in defects else ''
        if kind and kind != 'box partly outside its image':
            counts[kind] += 1
            continue
        if annotation['image_id'] not in sizes:
            continue
        box = _clipped(annotation['bbox'], *sizes[annotation['image_id']])
        if min(box[2:]) < 1:
            counts['box under one pixel'] += 1
            continue
        counts['box clipped'] += box != annotation['bbox']
        annotations.append(
            {key: annotation[key] for key in ('id', 'image_id', 'category_id')}
            | {'bbox': box, 'area': box[2] * box[3], 'iscrowd': int(bool(annotation.get('iscrowd')))}
        )
    # Categories.
    categories = [
        {'id': category['id'], 'name': corrected(category['name']) if correct_names else category['name']}
        for category in sorted(data['categories'], key=lambda category: category['id'])
    ]
    counts['name corrected'] = len({c['name'] for c in categories} - {c['name'] for c in data['categories']})
    repeated = [name for name, count in Counter(category['name'] for category in categories).items() if count > 1]
    if repeated:
        raise InputError(f'{content.path}: two categories are named {repeated[0]!r} when corrected; use --keep-names')
    return {'images': images, 'annotations': annotations, 'categories': categories}, counts


def short_name(file_name: str) -> str:
    """Path of an image below the folder of its split: ``patchN/x.jpg`` in version 2, ``x.jpg`` in version 1."""
    parts = file_name.split('/')
    return '/'.join(parts[-2:]) if len(parts) > 1 and parts[-2].startswith('patch') else parts[-1]


def _clipped(box: list[float], width: float, height: float) -> list[float]:
    x, y = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], width), min(box[1] + box[3], height)
    inside = x == box[0] and y == box[1] and right == box[0] + box[2] and bottom == box[1] + box[3]
    return box if inside else [x, y, right - x, bottom - y]
