"""Small annotation files, and functions that damage them in every way."""

import json

import cv2
import numpy as np


def make_content() -> dict:
    """Four images of 64 x 48 pixels, the last without boxes; three categories; twelve boxes."""
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in range(1, 5)]
    categories = [dict(id=i, name=name) for i, name in enumerate(['apple', 'pear', 'plum'], start=1)]
    annotations = [
        dict(id=i, image_id=i % 3 + 1, category_id=i % 3 + 1, bbox=[4 + i, 5, 20 + i, 30], area=600, iscrowd=0)
        for i in range(1, 13)
    ]
    return dict(images=images, categories=categories, annotations=annotations)


def write_images(folder, content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for image in content['images']:
        pixels = rng.integers(0, 256, (image['height'], image['width'], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / image['file_name']), pixels)


def save(root, content, name='train.json'):
    path = root / 'annotations' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def edit(section, entry, **values):
    return lambda content: content[section][entry].update(values)


def drop(section, entry, key):
    return lambda content: content[section][entry].pop(key)


def every(section, change):
    return lambda content: [change(record) for record in content[section]]


# Kind of defect, function that causes it, and a part of its report with location and values.
COCO_DEFECTS = [
    ('missing section', lambda c: c.pop('categories'), "no list 'categories'"),
    ('missing section', lambda c: c.update(annotations={}), "no list 'annotations'"),
    ('empty section', lambda c: c['images'].clear(), "'images' is empty"),
    ('incomplete record', drop('images', 3, 'width'), "image 4 (entry 3): entry 3 of 'images' has no valid 'width'"),
    ('incomplete record', edit('images', 3, file_name=None), "no valid 'file_name'"),
    ('incomplete record', lambda c: c['images'].append('x'), 'entry 4'),
    ('incomplete category', edit('categories', 1, name=7), "category 2 (entry 1): entry 1 of 'categories'"),
    ('invalid image size', edit('images', 1, width=0), 'image 2 has width 0 and height 48'),
    ('invalid image size', edit('images', 1, height=float('nan')), 'height nan'),
    ('duplicate image id', lambda c: c['images'].append(c['images'][0]), "id 1 occurs 2 times in 'images'"),
    ('duplicate category id', edit('categories', 1, id=1), "id 1 occurs 2 times in 'categories'"),
    ('duplicate category name', edit('categories', 1, name='apple'), "name 'apple' occurs 2 times"),
    ('category ids off by one', every('annotations', lambda a: a.update(category_id=a['category_id'] - 1)), '+1 all'),
    ('category ids off by one', every('annotations', lambda a: a.update(category_id=a['category_id'] + 1)), '-1 all'),
    ('category ids are positions', every('categories', lambda c: c.update(id=10 * c['id'])), 'count from 1'),
    ('category ids of another list', every('categories', lambda c: c.update(id=c['id'] + 20)), '3 of 3 used ids are'),
    ('category id gap', every('categories', lambda c: c.update(id=c['id'] + (c['id'] == 3))), 'first gap after 2'),
    (
        'empty class',
        lambda c: c['categories'].extend([dict(id=4, name='fig'), dict(id=5, name='nut')]),
        "category 5 (entry 4): 'nut' has no annotation",
    ),
    ('first or last class empty', lambda c: c['categories'].append(dict(id=4, name='fig')), "'fig', the last class"),
    (
        'class of classes',
        lambda c: (
            [every('categories', lambda r: r.update(supercategory='fruit'))(c)]
            + [c['categories'].append(dict(id=0, name='fruit', supercategory='none'))]
        ),
        "'fruit' has no annotation and is the supercategory",
    ),
    ('numeric class name', every('categories', lambda c: c.update(name=str(c['id']))), "'1', '2', '3'"),
    ('class name without a word', edit('categories', 1, name='(pear)'), "'(pear)' is only brackets"),
    ('class name without a word', edit('categories', 1, name='[] {}'), "'[] {}' is only brackets"),
    ('invalid image size', edit('images', 1, width=10**400), 'image 2 has width 1000'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, 10**400, 3]), 'is not four finite numbers'),
    ('invalid area', edit('annotations', 1, area=float('nan')), 'area is not finite'),
    ('invalid area', edit('annotations', 1, area=10**400), 'area is not finite'),
    ('similar class names', edit('categories', 1, name='Apple'), "'apple', 'Apple'"),
    ('untrimmed class name', edit('categories', 1, name='pear '), "'pear ' begins or ends"),
    ('wrong type', lambda c: c['annotations'].insert(1, [1]), 'entry 1'),
    ('wrong type', edit('annotations', 1, image_id=[1]), 'annotation 2 (entry 1): image_id [1]'),
    ('missing key', drop('annotations', 1, 'image_id'), 'annotation 2 (entry 1): image_id'),
    ('no box', drop('annotations', 1, 'bbox'), "annotation 2 (entry 1): it has no 'bbox', and no segmentation"),
    ('no id', drop('annotations', 1, 'id'), "annotation None (entry 1): it has no 'id'"),
    ('wrong type', edit('annotations', 1, image_id=10**20), 'neither a number of 64 bits'),
    ('incomplete record', edit('images', 3, id=10**20), "no valid 'id'"),
    ('incomplete category', edit('categories', 1, name='  '), "no valid 'name'"),
    ('fractional type of id', edit('annotations', 1, image_id=3.0), 'annotation 2 (entry 1): image_id 3.0'),
    ('fractional type of id', every('images', lambda i: i.update(id=float(i['id']))), "no valid 'id', but 1.0"),
    ('fractional type of id', edit('categories', 1, id=2.0), "no valid 'id', but 2.0"),
    (
        'image id as text',
        lambda c: (
            every('images', lambda i: i.update(id=f'a{i["id"]}'))(c)
            + every('annotations', lambda a: a.update(image_id=f'a{a["image_id"]}'))(c)
        ),
        "image a1 (entry 0): id 'a1'",
    ),
    ('invalid iscrowd', edit('annotations', 1, iscrowd=None), 'iscrowd None is neither 0 nor 1'),
    ('invalid iscrowd', edit('annotations', 1, iscrowd='1'), "iscrowd '1' is neither"),
    ('invalid area', edit('annotations', 1, area='869'), "area '869' is not a number"),
    ('invalid area', edit('annotations', 1, area=[1]), 'area [1] is not a number'),
    ('number as text', edit('annotations', 1, category_id='3'), "annotation 2 (entry 1): category_id '3'"),
    ('number as text', edit('annotations', 1, image_id='3'), "image_id '3' is 3 in the list"),
    ('number as text', edit('images', 3, width='64'), "has no valid 'width', but the text '64'"),
    ('number as text', edit('categories', 2, id='3'), "has no valid 'id', but the text '3'"),
    ('duplicate id', edit('annotations', 1, id=1), 'annotation 1 (entry 1): an earlier'),
    ('unknown image', edit('annotations', 1, image_id=99), 'annotation 2 (entry 1): no image has the id 99'),
    ('unknown category', edit('annotations', 1, category_id=99), 'annotation 2 (entry 1): no category has the id 99'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, 3]), 'annotation 2 (entry 1): bbox [1, 2, 3]'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, float('nan'), 9]), '[1, 2, nan, 9]'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, float('inf'), 9]), '[1, 2, inf, 9]'),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, '8', 9]), "[1, 2, '8', 9]"),
    ('malformed box', edit('annotations', 1, bbox=[1, 2, 'x', 9]), "[1, 2, 'x', 9]"),
    ('malformed box', edit('annotations', 1, bbox=None), 'bbox None'),
    ('box without area', edit('annotations', 1, bbox=[1, 2, 0, 9]), 'annotation 2 (entry 1): bbox [1, 2, 0, 9]'),
    ('box without area', edit('annotations', 1, bbox=[1, 2, 9, -9]), '[1, 2, 9, -9] needs a positive'),
    (
        'box outside its image',
        edit('annotations', 1, bbox=[70, 2, 9, 9]),
        '[70, 2, 9, 9] (x, y, width, height) against',
    ),
    ('box partly outside its image', edit('annotations', 1, bbox=[50, 2, 20, 9]), 'annotation 2 (entry 1): bbox'),
    ('box partly outside its image', edit('annotations', 1, bbox=[-9, 2, 9.5, 9]), '[-9, 2, 9.5, 9]'),
    (
        'normalised boxes',
        every('annotations', lambda a: a.update(bbox=[v / 64 for v in a['bbox']])),
        'all 12 boxes lie within 0..1',
    ),
    (
        'boxes are corners',
        every('annotations', lambda a: a.update(bbox=[20 + a['id'], 15, 40 + a['id'], 40])),
        '12 of 12 boxes leave their image',
    ),
    ('box under one pixel', edit('annotations', 1, bbox=[5, 5, 0.5, 9]), 'is 0.5 x 9 pixels'),
    (
        'repeated annotation',
        lambda c: c['annotations'].append(c['annotations'][3] | {'id': 50}),
        'annotation 50 (entry',
    ),
    ('no area', drop('annotations', 1, 'area'), 'annotation 2 (entry 1)'),
    ('no iscrowd', drop('annotations', 1, 'iscrowd'), 'annotation 2 (entry 1)'),
    ('area not positive', edit('annotations', 1, area=0), 'area 0 of bbox'),
    ('missing image', edit('images', 1, file_name='absent.png'), 'images/absent.png'),
    ('image under another name', edit('images', 1, file_name='2.PNG'), 'images/2.PNG, but 2.png'),
    ('image under another name', edit('images', 1, file_name='img\\2.png'), 'but 2.png'),
    (
        'width and height exchanged',
        edit('images', 3, width=48, height=64),
        '4.png is 64 x 48 pixels, the annotation file has 48',
    ),
    (
        'wrong image size',
        edit('images', 3, width=65),
        'image 4 (entry 3): 4.png is 64 x 48 pixels, the annotation file has 65 x 48',
    ),
    ('wrong image size', edit('images', 1, width=128, height=96), '2.png is 64 x 48'),
    ('repeated file name', edit('images', 3, file_name='1.png'), 'image 4 (entry 3): image 1 is 1.png as well'),
    ('absurd image size', edit('images', 3, width=30000), '4.png has 30000 x 48 pixels'),
]


def make_lvis() -> dict:
    content = make_content()
    for image in content['images']:
        image.update(coco_url=f'http://images.cocodataset.org/val2017/{image.pop("file_name")}')
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    every('categories', lambda c: c.update(frequency='f'))(content)
    every('annotations', lambda a: a.pop('iscrowd'))(content)
    return content


def make_odvg() -> list[dict]:
    content, names = make_content(), ['apple', 'pear', 'plum']
    lines = []
    for image in content['images']:
        instances = [
            {'bbox': [a['bbox'][0], 5, a['bbox'][0] + 20, 35], 'label': label, 'category': names[label]}
            for a in content['annotations']
            if a['image_id'] == image['id'] and (label := a['category_id'] - 1) >= 0
        ]
        size = dict(filename=image['file_name'], height=48, width=64)
        lines.append(size | {'detection': {'instances': instances}})
    return lines


def save_odvg(root, lines, label_map=True):
    file = root / 'train_od.jsonl'
    file.write_text(''.join((line if isinstance(line, str) else json.dumps(line)) + '\n' for line in lines))
    if label_map:
        label_map = {'0': 'apple', '1': 'pear', '2': 'plum'} if label_map is True else label_map
        (root / 'train_od_label_map.json').write_text(json.dumps(label_map))
    return file


def instances_of(lines, line=0):
    return lines[line]['detection']['instances']


ODVG_DEFECTS = [
    ('broken line', lambda lines: lines.insert(1, '{"filename": "2.png",, }'), 'line 2, column 22'),
    ('broken line', lambda lines: lines.insert(1, ''), 'line 2 is empty'),
    ('broken line', lambda lines: lines.insert(1, '[]'), 'line 2 is not an object'),
    ('incomplete record', lambda lines: lines[1].pop('height'), 'line 2: '),
    ('no box', lambda lines: instances_of(lines)[1].pop('bbox'), "line 1, instance 1: it has no 'bbox'"),
    ('missing key', lambda lines: instances_of(lines)[1].pop('label'), 'line 1, instance 1: category_id'),
    ('box without area', lambda lines: instances_of(lines)[1].update(bbox=[9, 9, 9, 20]), 'line 1, instance 1: '),
    ('malformed box', lambda lines: instances_of(lines)[1].update(bbox=[9, 9, 9]), 'line 1, instance 1: '),
    (
        'unknown category',
        lambda lines: instances_of(lines)[1].update(label=7, category='x'),
        'no category has the id 7',
    ),
    (
        'label contradicts category',
        lambda lines: instances_of(lines)[1].update(label=2, category='pear'),
        "line 1, instance 1: category 'pear' has the label 2, which means 'plum'",
    ),
    (
        'label contradicts category',
        lambda lines: [i.update(label=i['label'] + 1) for line in lines for i in line['detection']['instances']],
        "category 'apple' has the label 1, which means 'pear'",
    ),
    ('missing image', lambda lines: lines[3].update(filename='absent.png'), 'line 4: '),
    ('wrong image size', lambda lines: lines[3].update(width=65), 'line 4: 4.png is 64 x 48'),
]
