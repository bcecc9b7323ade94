"""Table of the kinds of defects of an annotation file, with the remedy of each."""

from typing import NamedTuple

ERROR, WARNING = 'error', 'warning'


class Kind(NamedTuple):
    """A kind of defect.

    Attributes:
        severity: ``error``: the file cannot be read, or training and evaluation on it would be wrong; ``warning``:
            legal, but often a mistake.
        remedy: Action that the owner of the file should take, as the end of a sentence.
        repair: Correction by a repair; empty if there is none, because a tool cannot know the correct value.
        blocking: Whether a person must resolve this defect before anything is repaired: other repairs would hide it.
    """

    severity: str
    remedy: str
    repair: str = ''
    blocking: bool = False


class Finding(NamedTuple):
    """One defect.

    Attributes:
        kind: Key of :data:`KINDS`.
        detail: Description of the defect, with the values.
        section: ``images``, ``annotations`` or ``categories``; empty for the file as a whole.
        entry: Index in that section, from 0; -1 for the section or the file as a whole.
    """

    kind: str
    detail: str
    section: str = ''
    entry: int = -1

    @property
    def severity(self) -> str:
        """``error`` or ``warning``."""
        return KINDS[self.kind].severity

    @property
    def advice(self) -> str:
        """Remedy for the finding."""
        return KINDS[self.kind].remedy


_DROP = 'the annotation is left out'
_BOX = f'the box of its segmentation is written; if it has none, {_DROP}'
_LOOK = 'look at images with tools/analysis_tools/browse_dataset.py'

KINDS: dict[str, Kind] = {
    # The file
    'broken JSON': Kind(ERROR, 'restore or regenerate the file', blocking=True),
    'broken line': Kind(ERROR, 'write one JSON object per line', 'the line is left out'),
    'missing section': Kind(ERROR, 'give a file in COCO format', blocking=True),
    'empty section': Kind(ERROR, 'a data set needs at least one entry there', blocking=True),
    'mixed lines': Kind(ERROR, 'write detection and grounding lines to two files', blocking=True),
    'no label map': Kind(ERROR, 'give it with --label-map, or put it into the folder of the file', blocking=True),
    'nothing left': Kind(ERROR, 'correct its errors first: a repair would leave nothing', blocking=True),
    # Records
    'incomplete record': Kind(ERROR, 'complete it', 'the record is left out, with its annotations'),
    'incomplete category': Kind(ERROR, 'complete it', blocking=True),
    'invalid image size': Kind(
        ERROR,
        'write its size in pixels',
        'the size is read from the image file; without a file the image is left out',
    ),
    'duplicate image id': Kind(ERROR, 'make it unique', 'a repetition of the same record is left out'),
    'duplicate category id': Kind(ERROR, 'make it unique', blocking=True),
    'duplicate category name': Kind(ERROR, 'make it unique', 'the categories are merged'),
    # Categories
    'category ids off by one': Kind(ERROR, f'{_LOOK} and correct the ids', blocking=True),
    'category ids are positions': Kind(
        ERROR, "write the ids of 'categories', which have gaps, instead of their indices", blocking=True
    ),
    'category ids of another list': Kind(
        ERROR, 'give the categories that the annotations were made with', blocking=True
    ),
    'category ids differ between files': Kind(ERROR, 'write one list of categories to all splits'),
    'category id gap': Kind(WARNING, 'legal: labels are indices in the order of ids; never use an id as a label'),
    'empty class': Kind(WARNING, 'legal; if it should have annotations, its id may be wrong'),
    'first or last class empty': Kind(WARNING, f'ids that are off by one look like this: {_LOOK}'),
    'class of classes': Kind(WARNING, 'remove the entry from all splits if none has an annotation of it'),
    'numeric class name': Kind(WARNING, 'write names instead of numbers: they are used as text prompts'),
    'class name without a word': Kind(ERROR, 'rename it: no text prompt can be made of it'),
    'similar class names': Kind(WARNING, 'merge them, or give them clearly different names'),
    'untrimmed class name': Kind(WARNING, 'remove the spaces in all splits', 'the spaces are removed'),
    # Sources of federated files
    'invalid source': Kind(
        ERROR, 'correct the sources, or remove them if all images were annotated for the same categories', blocking=True
    ),
    # Annotations
    'wrong type': Kind(
        ERROR,
        'make it an object with id, image_id, category_id and bbox',
        f'it gets a new id if only its own id is wrong; otherwise {_DROP}',
    ),
    'missing key': Kind(ERROR, 'complete it or remove it', _DROP),
    'no id': Kind(ERROR, 'give each annotation an id of its own', 'it gets a new id'),
    'no box': Kind(ERROR, 'write the box of its segmentation', _BOX),
    'fractional type of id': Kind(
        ERROR,
        'write ids as 1, not 1.0; tables with missing values write 1.0',
        f'a whole number is written; an annotation whose own id is no whole number gets a new one; otherwise {_DROP}',
    ),
    'invalid iscrowd': Kind(ERROR, 'write 0 or 1', 'text that is 0 or 1 becomes a number, anything else 0'),
    'invalid area': Kind(
        ERROR, 'write a number', 'text that is a number becomes one, otherwise width times height of the box is written'
    ),
    'image id as text': Kind(
        ERROR, 'COCO evaluation needs numbers: number the images', 'images are numbered, and annotations updated'
    ),
    'number as text': Kind(ERROR, 'write the number without quotes', 'text that is a number becomes one'),
    'duplicate id': Kind(ERROR, 'give each annotation an id of its own', 'it gets a new id'),
    'unknown image': Kind(ERROR, 'add the image or remove the annotation', _DROP),
    'unknown category': Kind(ERROR, 'add the category or correct the id', _DROP),
    'malformed box': Kind(ERROR, 'write four finite numbers', f'text that is a number becomes one; otherwise {_BOX}'),
    'box without area': Kind(ERROR, 'correct the box or remove the annotation', _BOX),
    'box outside its image': Kind(ERROR, 'correct the box or remove the annotation', _DROP),
    'box partly outside its image': Kind(
        ERROR, 'clip the box to its image', f'the box is clipped; if less than a pixel remains, {_DROP}'
    ),
    'normalised boxes': Kind(ERROR, 'multiply the boxes by width and height of their images', blocking=True),
    'boxes are corners': Kind(ERROR, 'write x, y, width, height instead of x1, y1, x2, y2', blocking=True),
    'box under one pixel': Kind(WARNING, 'it is left out of training; remove it', _DROP),
    'repeated annotation': Kind(WARNING, 'remove the repetition', _DROP),
    'no area': Kind(WARNING, 'COCO evaluation needs it: write it', 'width times height of the box is written'),
    'no iscrowd': Kind(WARNING, 'COCO evaluation needs it: write 0', '0 is written'),
    'area not positive': Kind(
        WARNING, 'the annotation is left out of training: write its area', 'width times height of the box is written'
    ),
    # Images
    'missing image': Kind(ERROR, 'restore the file, or give its folder with --img-dir', 'the image is left out'),
    'image under another name': Kind(ERROR, 'write its name as on disk', 'the name on disk is written'),
    'unreadable image': Kind(ERROR, 'restore the file', 'the image is left out'),
    'wrong image size': Kind(
        ERROR,
        'if the image was resized after annotation, scale the boxes with it; otherwise write its true size',
        'the image is left out, because its boxes may be those of another size',
    ),
    'width and height exchanged': Kind(
        ERROR, 'write the true size, in which all boxes of the image fit', 'the true size is written'
    ),
    'EXIF rotation contradicts the boxes': Kind(
        ERROR,
        'training rotates the image, but its boxes were drawn before that: rotate the pixels and remove the tag',
        'the image is left out',
    ),
    'EXIF rotation': Kind(WARNING, f'tools differ in whether they apply it: {_LOOK}, or rotate the pixels'),
    'absurd image size': Kind(WARNING, 'check the image'),
    'repeated file name': Kind(WARNING, 'merge the images: the boxes of one count as background in the other'),
    # LVIS
    'no frequency': Kind(ERROR, "LVIS evaluation needs 'r', 'c' or 'f' for its APr, APc and APf: write it"),
    'contradictory lists': Kind(ERROR, 'an absent category has no annotation: correct one of them'),
    'unknown category in a list': Kind(ERROR, 'add the category or correct the list'),
    # ODVG
    'label contradicts category': Kind(ERROR, 'correct the label', 'the label of the named category is written'),
    'span outside the caption': Kind(ERROR, 'correct tokens_positive'),
}
