"""Checks of an annotation file, or of all annotation files of a folder."""

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError
from dinor1.utils.io import not_utf8, parse_json, read_text

from . import categories as category_checks
from .coco import from_json, lvis_findings
from .content import COCO, LVIS, ODVG, Content
from .federated import source_findings
from .findings import ERROR, Finding
from .images import Folder, ImageFile, image_file_findings, inspect_all, locate, size_warnings
from .instances import Sizes, annotation_defects, annotation_warnings, box_form, is_box
from .odvg import from_lines, looks_like_odvg, odvg_findings
from .structure import has_size, is_whole_float, structure_findings

# Names of folders of splits begin so; the parent folder is the data set.
_SPLITS = ('train', 'val', 'test', 'dev', 'support')
# Kinds that annotation_defects reports if all boxes have another format, such as corners.
_BOX_KINDS = {'box without area', 'box outside its image', 'box partly outside its image', 'malformed box'}


@dataclass
class Checked:
    """An annotation file and its defects.

    Attributes:
        content: The file.
        img_dir: Folder of its images; None: not searched or not found.
        images_checked: Whether images were searched.
        image_files: The image files that were opened, by file name.
        findings: Errors and warnings.
    """

    content: Content
    img_dir: Path | None = None
    images_checked: bool = True
    image_files: dict[str, ImageFile] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Findings that are errors."""
        return [finding for finding in self.findings if finding.severity == ERROR]


def read(path: Path, label_map: Path | None = None) -> Content:
    """Read a file of any format; a broken file gives a finding.

    Raises:
        InputError: there is no such file, or its label map cannot be used.
    """
    # Read the text.
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        return Content(path, COCO, None, [Finding('broken JSON', not_utf8(error))])
    # JSON lines are ODVG; everything else is one JSON document.
    if looks_like_odvg(path, text):
        return from_lines(path, text, label_map)
    data, problem = parse_json(text)
    if problem:
        return Content(path, COCO, None, [Finding('broken JSON', problem)])
    return from_json(path, data)


def check_path(
    path: Path,
    img_dir: Path | None = None,
    label_map: Path | None = None,
    check_images: bool = True,
    sample: int | None = None,
    show_progress: bool = False,
) -> tuple[list[Checked], list[Path]]:
    """Check a file, or every annotation file of a folder.

    Args:
        path: File or folder.
        img_dir: Folder that file names are relative to; default: found near the file.
        label_map: Names of an ODVG file's labels; default: found beside the file.
        check_images: Search the images and open them.
        sample: Number of images of each file to open; all are searched. Default: open all.
        show_progress: Show a progress bar on standard error while images are opened.

    Returns:
        The checked files, and the JSON files of the folder without boxes: captions, segments, lists of test images.

    Raises:
        InputError: there is no such path, or no annotation file in the folder.
    """
    if img_dir is not None and not img_dir.is_dir():
        raise InputError(f'{img_dir}: no such folder; correct --img-dir')
    # Read the files.
    contents, skipped = [], []
    for file in _candidates(path) if path.is_dir() else [path]:
        content = read(file, label_map)
        if file == path or _is_annotation_file(content):
            contents.append(content)
        else:
            skipped.append(file)
    if not contents:
        raise InputError(f'{path}: no annotation file in COCO, LVIS or ODVG format; name one')
    # Check them, together with their images.
    results = []
    for content in contents:
        checked = Checked(content, images_checked=check_images)
        if check_images:
            _open_images(checked, img_dir, sample, show_progress)
        results.append(checked)
    check_together(results)
    return results, skipped


def check_together(results: list[Checked]) -> None:
    """Set the findings of files, including those that only a comparison of the splits of a data set shows."""
    # Collect the splits of each data set.
    groups = defaultdict(list)
    for checked in results:
        parent = checked.content.path.resolve().parent
        split_folder = parent.name.lower().startswith(_SPLITS)
        groups[parent.parent if split_folder else parent].append(checked)
    for group in groups.values():
        used = {id(checked): _used_names(checked.content) for checked in group}
        # Check each file, given the classes that the other splits use.
        for checked in group:
            others = [names for key, names in used.items() if key != id(checked)]
            checked.findings = check(checked, set().union(*others))
        # Compare the category ids of the splits.
        named = {_short_name(checked): checked for checked in group if checked.content.named}
        ids = {name: _category_ids(checked.content) for name, checked in named.items()}
        for name, finding in category_checks.differences(ids).items():
            named[name].findings.append(finding)


def check(checked: Checked, used_elsewhere: Collection[str] = ()) -> list[Finding]:
    """All findings of one file.

    Args:
        checked: The file; its ``findings`` are not read.
        used_elsewhere: Names of the classes with annotations in other splits.
    """
    # Structure of the file; without its sections, nothing else can be checked.
    content = checked.content
    findings = list(content.findings)
    if any(finding.kind == 'broken JSON' for finding in findings):
        return findings
    findings += structure_findings(content.data)
    if any(finding.kind == 'missing section' for finding in findings):
        return findings
    # Rules of the format.
    format_findings = list(odvg_findings(content)) if content.format == ODVG else []
    if content.format == LVIS:
        format_findings += lvis_findings(content)
    if content.format == COCO and not findings:
        format_findings += source_findings(content.data)
    findings += format_findings
    # Annotations and images, without a second finding for an annotation that the format reports.
    claimed = {finding.entry for finding in format_findings if finding.section == 'annotations'}
    return findings + _annotation_findings(content, claimed, used_elsewhere) + _image_findings(checked)


def _annotation_findings(content: Content, claimed: set[int], used_elsewhere: Collection[str]) -> list[Finding]:
    # Find the defects of each annotation.
    annotations, sizes = content.records('annotations'), _sizes(content)
    known = _ids(content, 'categories')
    defects = annotation_defects(annotations, sizes, known)
    # Defects of all annotations together replace those of single annotations that follow from them.
    findings = []
    numbering = category_checks.numbering_error(known, _used(annotations, claimed))
    form = box_form(annotations, sizes)
    for finding, consequences in ((numbering, {'unknown category'}), (form, _BOX_KINDS)):
        if finding is not None:
            findings.append(finding)
            defects = {index: defect for index, defect in defects.items() if defect[0] not in consequences}
    for index, (kind, detail) in defects.items():
        if not (index in claimed and kind == 'unknown category'):
            findings.append(Finding(kind, detail, 'annotations', index))
    # Warnings about annotations without a defect, and about categories.
    if form is None and numbering is None:
        unknown = set(defects) | claimed
        findings += annotation_warnings(annotations, dict.fromkeys(unknown), content.format != LVIS)
    if content.named:
        valid = content.valid('categories')
        findings += category_checks.name_warnings([category['name'] for _, category in valid])
        if numbering is None:
            records = [category for _, category in valid]
            findings += category_checks.usage_warnings(records, _used(annotations, set()), used_elsewhere)
    return findings


def _image_findings(checked: Checked) -> list[Finding]:
    # Check the records of the images.
    content = checked.content
    findings = [
        Finding('image id as text', f'id {image["id"]!r}', 'images', index)
        for index, image in content.valid('images')
        if isinstance(image['id'], str)
    ]
    images = [(index, image) for index, image in content.valid('images') if has_size(image)]
    findings += [finding for index, image in images for finding in size_warnings(index, image)]
    if content.named:
        findings += _repeated_files(images)
    # Check whether the files were opened and found.
    if not checked.images_checked or not images:
        return findings
    if checked.img_dir is None:
        detail = f'no image was found near the file, for example {images[0][1]["file_name"]}'
        return [*findings, Finding('missing image', detail, 'images')]
    folder = Folder(checked.img_dir)
    # Collect the boxes of each image, which show whether width and height are exchanged.
    boxes = defaultdict(list)
    for annotation in content.records('annotations'):
        image_id = annotation.get('image_id') if isinstance(annotation, dict) else None
        if type(image_id) in (int, str) and is_box(annotation.get('bbox')):
            boxes[image_id].append(annotation['bbox'])
    # Check the file of each image.
    for index, image in images:
        names = content.file_names(image)
        missing = f'no file {checked.img_dir / names[0]}'
        if folder.find(names) is None:
            nearest = folder.nearest(names)
            if nearest is None:
                findings.append(Finding('missing image', missing, 'images', index))
            else:
                detail = f'{missing}, but {nearest}'
                findings.append(Finding('image under another name', detail, 'images', index))
        elif image['file_name'] in checked.image_files:
            image_file = checked.image_files[image['file_name']]
            findings += image_file_findings(index, image, image_file, boxes[image['id']])
    return findings


def _repeated_files(images: list[tuple[int, dict]]) -> list[Finding]:
    first: dict[str, Any] = {}
    findings = []
    for index, image in images:
        other = first.setdefault(image['file_name'], image['id'])
        if other != image['id']:
            detail = f'image {other} is {image["file_name"]} as well'
            findings.append(Finding('repeated file name', detail, 'images', index))
    return findings


def _open_images(checked: Checked, img_dir: Path | None, sample: int | None, show_progress: bool) -> None:
    content = checked.content
    images = [image for _, image in content.valid('images')]
    checked.img_dir = img_dir or locate(content.path, [content.file_names(image) for image in images])
    if checked.img_dir is None:
        return
    # Open the images that exist.
    folder, paths = Folder(checked.img_dir), {}
    for image in images:
        found = folder.find(content.file_names(image))
        if found is not None:
            paths[image['file_name']] = checked.img_dir / found
    checked.image_files = inspect_all(paths, sample, show_progress=show_progress)


def _candidates(folder: Path) -> list[Path]:
    """JSON files below a folder, except hidden ones and label maps."""
    files = [path for suffix in ('*.json', '*.jsonl') for path in folder.rglob(suffix)]
    inner = [(path, path.relative_to(folder)) for path in files if 'label_map' not in path.name]
    return sorted(path for path, name in inner if not any(part.startswith('.') for part in name.parts))


def _is_annotation_file(content: Content) -> bool:
    """Whether a file of a folder is meant as annotations with boxes; True for a broken file, which may be one."""
    if any(finding.kind == 'broken JSON' for finding in content.findings):
        return True
    # Files of captions and of panoptic segmentations have other keys.
    annotations = content.records('annotations')
    first = annotations[0] if annotations and isinstance(annotations[0], dict) else {}
    other = not first.keys().isdisjoint(('caption', 'segments_info'))
    has_annotations = isinstance(content.data, dict) and isinstance(content.data.get('annotations'), list)
    return has_annotations and not other and any(content.records(name) for name in ('images', 'categories'))


def _sizes(content: Content) -> Sizes:
    unknown = dict.fromkeys(_ids(content, 'images'), (math.inf, math.inf))
    return unknown | {
        image['id']: (image['width'], image['height']) for _, image in content.valid('images') if has_size(image)
    }


def _ids(content: Content, section: str) -> set:
    """Ids of a section, including those of records with another defect: references to them are valid."""
    records = [record for record in content.records(section) if isinstance(record, dict)]
    return {
        record['id'] for record in records if type(record.get('id')) in (int, str) or is_whole_float(record.get('id'))
    }


def _used(annotations: list, without: set[int]) -> set:
    values = (a.get('category_id') for i, a in enumerate(annotations) if i not in without and isinstance(a, dict))
    return {value for value in values if type(value) in (int, str)}


def _short_name(checked: Checked) -> str:
    path = checked.content.path.resolve()
    return f'{path.parent.name}/{path.name}'


def _category_ids(content: Content) -> dict[str, int]:
    return {category['name']: category['id'] for _, category in content.valid('categories')}


def _used_names(content: Content) -> set[str]:
    used = _used(content.records('annotations'), set())
    return {category['name'] for _, category in content.valid('categories') if category['id'] in used}
