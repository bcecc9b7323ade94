"""Repair of an annotation file where the right value is certain; other defects stay and are reported again."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path

from .check import Checked, check
from .coco import DERIVED_NAME, to_json
from .content import ODVG, Content
from .findings import KINDS, Finding
from .images import Folder, inspect
from .instances import as_listed, box_array, is_id
from .odvg import own_label_map, to_lines
from .report import format_counts
from .segmentation import segmentation_box
from .structure import as_number, fits_int64, is_whole_float

# A repair can reveal another defect of the same record: a renamed image may have another size.
_MAX_ROUNDS = 6


class Repairs(NamedTuple):
    """Changes made by a repair.

    Attributes:
        corrected: Kind of defect -> number of records that were corrected.
        left_out: Kind of defect -> number of records that were left out.
        annotations_before: Number of annotations before the repair.
        annotations_after: Number of annotations after it.
    """

    corrected: Counter
    left_out: Counter
    annotations_before: int
    annotations_after: int

    def __str__(self) -> str:
        lost = self.annotations_before - self.annotations_after
        return (
            f'corrected: {format_counts(self.corrected)}; left out: {format_counts(self.left_out)}; '
            f'{lost:,} of {self.annotations_before:,} annotations were removed'
        )


def repair(checked: Checked) -> Repairs:
    """Repair a file in memory, in rounds, until nothing more can be repaired.

    Args:
        checked: The file; its content is changed, and its findings become the remaining ones.

    Raises:
        InputError: a person must resolve a defect first, or no image or annotation would be left.
    """
    # Reject files that must not be repaired.
    path = checked.content.path
    blocking = [finding for finding in checked.findings if KINDS[finding.kind].blocking]
    if blocking:
        raise InputError(
            f'{path}: not repaired, because of {blocking[0].kind} ({blocking[0].detail}); {blocking[0].advice}'
        )
    if not checked.content.named:
        raise InputError(f'{path}: grounding data are checked but not repaired; correct the file')
    # Broken lines of an ODVG file are not in the content, and count as left out.
    corrected: Counter = Counter()
    left_out = Counter(finding.kind for finding in checked.content.findings)
    checked.content.findings = []
    before = len(checked.content.records('annotations'))
    # Repair and check alternately.
    between_files = [f for f in checked.findings if f.kind == 'category ids differ between files']
    for _ in range(_MAX_ROUNDS):
        one = _Round(checked)
        one.run()
        corrected += one.corrected
        left_out += one.left_out
        for section in ('images', 'annotations'):
            if not checked.content.records(section) and (section == 'images' or before):
                reason = f'no {section[:-1]} would be left (left out: {format_counts(left_out)})'
                checked.findings = [Finding('nothing left', reason)]
                raise InputError(f'{path}: not repaired, because {reason}; correct its errors first')
        checked.findings = check(checked)
        if not one.corrected and not one.left_out:
            break
    checked.findings += between_files
    return Repairs(corrected, left_out, before, len(checked.content.records('annotations')))


def write(content: Content, path: Path) -> None:
    """Write a content in its original format, completely or not at all; an ODVG file with its label map beside it."""
    if content.format == ODVG:
        names = {str(c['id']): c['name'] for c in content.data['categories']}
        # Both files are complete before either gets its name.
        with atomic_path(own_label_map(path)) as temporary_names, atomic_path(path) as temporary:
            temporary.write_text(to_lines(content))
            temporary_names.write_text(json.dumps(names) + '\n')
    else:
        # Keep NaN, which JSON does not allow: remaining NaN values are not errors.
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(to_json(content)) + '\n')


class _Round:
    """One pass over the findings of a file."""

    def __init__(self, checked: Checked) -> None:
        self.checked, self.content = checked, checked.content
        self.dropped: dict[str, set[int]] = {'images': set(), 'annotations': set(), 'categories': set()}
        # Find the first id that is free for new annotations.
        ids = [a['id'] for a in self.content.records('annotations') if isinstance(a, dict) and type(a.get('id')) is int]
        self.next_id = max((number for number in ids if fits_int64(number + 1)), default=0) + 1
        self.images = {image['id']: image for _, image in self.content.valid('images')}
        self.by_image: dict[str, list[dict]] | None = None
        # Count the changes for the report.
        self.corrected: Counter = Counter()
        self.left_out: Counter = Counter()

    def run(self) -> None:
        # Apply the action of each finding, unless its record is dropped already.
        for finding in self.checked.findings:
            action = _ACTIONS.get(finding.kind)
            if action is None or finding.entry < 0 or finding.entry in self.dropped[finding.section]:
                continue
            if action(self, finding, self.content.data[finding.section][finding.entry]):
                done = self.left_out if finding.entry in self.dropped[finding.section] else self.corrected
                done[finding.kind] += 1
        self._remove_dropped()

    def _remove_dropped(self) -> None:
        # Remove the dropped records.
        data = self.content.data
        removed = [data['images'][i] for i in self.dropped['images']]
        for section, dropped in self.dropped.items():
            if dropped:
                data[section] = [record for i, record in enumerate(data[section]) if i not in dropped]
        # Remove the annotations of dropped images, unless another image record has the same id.
        left = {
            image['id'] for image in data['images'] if isinstance(image, dict) and type(image.get('id')) in (int, str)
        }
        lost = [image.get('id') for image in removed if isinstance(image, dict)]
        lost = {value for value in lost if type(value) in (int, str)} - left
        if lost:
            data['annotations'] = [
                a
                for a in data['annotations']
                if not (isinstance(a, dict) and type(a.get('image_id')) in (int, str) and a['image_id'] in lost)
            ]

    # Actions. Each returns whether it changed something.

    def drop(self, finding: Finding, record: Any) -> bool:
        self.dropped[finding.section].add(finding.entry)
        return True

    def drop_copy(self, finding: Finding, record: dict) -> bool:
        first = next(other for other in self.content.data[finding.section] if other.get('id') == record['id'])
        return first == record and self.drop(finding, record)

    def true_size(self, finding: Finding, record: dict) -> bool:
        image_file = self.checked.image_files.get(record['file_name'])
        if image_file is None or image_file.problem or image_file.size is None:
            return self.drop(finding, record)
        record['width'], record['height'] = image_file.upright_size
        return True

    def rename(self, finding: Finding, record: dict) -> bool:
        if record.get(DERIVED_NAME):
            return False  # An LVIS file names its images by URL, which a repair must not change.
        found = Folder(self.checked.img_dir).nearest(self.content.file_names(record))
        record['file_name'] = found
        self.checked.image_files[found] = inspect(self.checked.img_dir / found)
        return True

    def make_number(self, finding: Finding, record: dict) -> bool:
        # Read the numbers; references must be ids of the file.
        if finding.section == 'annotations':
            known = {
                'image_id': self.images,
                'category_id': {category['id'] for _, category in self.content.valid('categories')},
            }
            numbers = {key: as_listed(record[key], ids) for key, ids in known.items() if record[key] not in ids}
        else:
            numbers = {key: as_number(record[key]) for key in ('id', 'width', 'height') if type(record.get(key)) is str}
            if finding.section == 'images':
                numbers.pop('id', None)
        # Write those that can be read.
        record.update({key: value for key, value in numbers.items() if value is not None})
        return True

    def new_id(self, finding: Finding, record: dict) -> bool:
        record['id'], self.next_id = self.next_id, self.next_id + 1
        return True

    def number_box(self, finding: Finding, record: dict) -> bool:
        box = record['bbox']
        if isinstance(box, list) and len(box) == 4:
            numbers = [as_number(value) if isinstance(value, str) else value for value in box]
            if all(value == value and abs(value) < float('inf') for value in box_array([numbers])[0]):
                record['bbox'] = numbers
                return True
        return self.box_of_segmentation(finding, record)

    def clip(self, finding: Finding, record: dict) -> bool:
        # Clip the box; drop it if less than a pixel remains.
        size = self.images[record['image_id']]
        x, y, width, height = record['bbox']
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, size['width']), min(y + height, size['height'])
        if right - left < 1 or bottom - top < 1:
            return self.drop(finding, record)
        record['bbox'] = [left, top, right - left, bottom - top]
        # Keep the area of a mask.
        if 'area' in record and not record.get('segmentation'):
            record['area'] = record['bbox'][2] * record['bbox'][3]
        return True

    def box_area(self, finding: Finding, record: dict) -> bool:
        record['area'] = record['bbox'][2] * record['bbox'][3]
        return True

    def box_of_segmentation(self, finding: Finding, record: dict) -> bool:
        box = self._segmentation_box(record)
        if box is None:
            return self.drop(finding, record)
        record['bbox'] = box
        return True

    def _segmentation_box(self, record: dict) -> list[float] | None:
        """The box of an annotation's segmentation; its image id may still be text or a float."""
        image_id = record.get('image_id')
        if isinstance(image_id, str) and image_id not in self.images:
            image_id = as_listed(image_id, self.images)
        size = self.images.get(image_id) if isinstance(image_id, int | float | str) else None
        return None if size is None else segmentation_box(record.get('segmentation'), size['height'], size['width'])

    def number_or_drop(self, finding: Finding, record: Any) -> bool:
        """Number an annotation whose own id cannot be used; leave out one with another value of a wrong type."""
        if isinstance(record, dict) and not is_id(record.get('id')):
            return self.new_id(finding, record)
        return self.drop(finding, record)

    def whole_ids(self, finding: Finding, record: dict) -> bool:
        # Replace an id with a fraction; a reference with a fraction cannot be repaired.
        if type(record['id']) is float and not is_whole_float(record['id']):
            self.new_id(finding, record)
        keys = [key for key in ('id', 'image_id', 'category_id') if type(record.get(key)) is float]
        if not all(is_whole_float(record[key]) for key in keys):
            return self.drop(finding, record)
        # Write whole numbers as integers.
        record.update({key: int(record[key]) for key in keys})
        return True

    def number_image(self, finding: Finding, record: dict) -> bool:
        # Choose a number: that of the text if it is free, otherwise a new one.
        old, number = record['id'], as_number(record['id'])
        if type(number) is not int or number in self.images or not fits_int64(number):
            number = max((key for key in self.images if type(key) is int), default=0) + 1
        # Renumber the annotations of the image.
        if self.by_image is None:
            self.by_image = defaultdict(list)
            for annotation in self.content.records('annotations'):
                if isinstance(annotation, dict) and isinstance(annotation.get('image_id'), str):
                    self.by_image[annotation['image_id']].append(annotation)
        for annotation in self.by_image[old]:
            annotation['image_id'] = number
        record['id'] = number
        self.images[number] = self.images.pop(old, record)
        return True

    def flag(self, finding: Finding, record: dict) -> bool:
        record['iscrowd'] = 1 if record['iscrowd'] in (1, '1', 1.0) else 0
        return True

    def number_area(self, finding: Finding, record: dict) -> bool:
        area = as_number(record['area']) if isinstance(record['area'], str) else None
        if area is None:
            record.pop('area')  # The next round writes the area of the box.
        else:
            record['area'] = area
        return True

    def no_crowd(self, finding: Finding, record: dict) -> bool:
        record['iscrowd'] = 0
        return True

    def strip_name(self, finding: Finding, record: dict) -> bool:
        record['name'] = record['name'].strip()
        return True

    def merge_category(self, finding: Finding, record: dict) -> bool:
        first = next(c for _, c in self.content.valid('categories') if c['name'] == record['name'])
        for annotation in self.content.data['annotations']:
            if isinstance(annotation, dict) and annotation.get('category_id') == record['id']:
                annotation['category_id'] = first['id']
        return self.drop(finding, record)

    def label_of_name(self, finding: Finding, record: dict) -> bool:
        labels = [c['id'] for _, c in self.content.valid('categories') if c['name'] == record['source']['category']]
        if len(labels) != 1:
            return False
        record['category_id'] = labels[0]
        return True


_ACTIONS: dict[str, Callable[[_Round, Finding, Any], bool]] = {
    'incomplete record': _Round.drop,
    'number as text': _Round.make_number,
    'invalid image size': _Round.true_size,
    'duplicate image id': _Round.drop_copy,
    'duplicate category name': _Round.merge_category,
    'untrimmed class name': _Round.strip_name,
    'wrong type': _Round.number_or_drop,
    'missing key': _Round.drop,
    'duplicate id': _Round.new_id,
    'no id': _Round.new_id,
    'no box': _Round.box_of_segmentation,
    'fractional type of id': _Round.whole_ids,
    'image id as text': _Round.number_image,
    'invalid iscrowd': _Round.flag,
    'invalid area': _Round.number_area,
    'unknown image': _Round.drop,
    'unknown category': _Round.drop,
    'malformed box': _Round.number_box,
    'box without area': _Round.box_of_segmentation,
    'box outside its image': _Round.drop,
    'box partly outside its image': _Round.clip,
    'box under one pixel': _Round.drop,
    'repeated annotation': _Round.drop,
    'no area': _Round.box_area,
    'area not positive': _Round.box_area,
    'no iscrowd': _Round.no_crowd,
    'missing image': _Round.drop,
    'image under another name': _Round.rename,
    'unreadable image': _Round.drop,
    'wrong image size': _Round.drop,
    'width and height exchanged': _Round.true_size,
    'EXIF rotation contradicts the boxes': _Round.drop,
    'label contradicts category': _Round.label_of_name,
}
