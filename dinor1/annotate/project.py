"""State of a labelled folder: images, boxes, classes, exemplars and settings, which are saved after every change."""

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinor1.annotate.image_access import ImageFiles
from dinor1.annotate.records import (
    ACCEPTED,
    MAX_CLASSES,
    MAX_EXEMPLARS,
    PALETTE,
    PROPOSED,
    REJECTED,
    Box,
    ClassInfo,
    Exemplar,
    ImageRecord,
    Settings,
    UnknownIdError,
    boxes_from_json,
    changed_settings,
    check_bbox,
    check_color,
    check_name,
    class_from_json,
    exemplar_from_json,
    image_from_json,
    to_json,
)
from dinor1.annotate.store import Store, check_work_dir
from dinor1.utils.class_names import class_key
from dinor1.utils.errors import InputError

WORK_DIR = '.dinor1'
_PROJECT = 'project.json'
_VERSION = 1


class StaleRevisionError(Exception):
    """An update was based on an old revision of an image.

    Attributes:
        record: The current record.
    """

    def __init__(self, record: ImageRecord) -> None:
        super().__init__('the image was changed in another tab')
        self.record = record


class Project:
    """State of a labelled folder; all methods may be called from several threads.

    Every change increments :attr:`sequence`, and the revision of its image. The change is on the disk when the method
    returns. If it cannot be written, it is kept in memory, and :attr:`problem` has the reason.

    Args:
        folder: Folder of images, without sub-folders.
        work_dir: Folder of the state; default: ``.dinor1`` in the folder.

    Attributes:
        files: The image files.
        sequence: Number of changes since the start.

    Raises:
        InputError: the folder has no images, another process uses the work directory, or a file in it is damaged.
    """

    _classes: list[ClassInfo]
    _settings: Settings

    def __init__(self, folder: Path, work_dir: Path | None = None) -> None:
        # Find the images, and check the work directory before anything is written.
        self.files = ImageFiles(folder)
        work_dir = work_dir or folder / WORK_DIR
        check_work_dir(work_dir)
        # Open the work directory, and release it if the project cannot be read.
        self._lock = threading.RLock()
        self._store = Store(work_dir)
        try:
            self._load()
        except BaseException:
            self._store.close()
            raise

    def close(self) -> None:
        """Write changes that are not on the disk yet, and release the lock of the work directory."""
        with self._lock:
            self._store.close()

    # ---------------------------------------------------------------- reading

    @property
    def work_dir(self) -> Path:
        """Folder of the state."""
        return self._store.folder

    @property
    def problem(self) -> str:
        """Reason why changes are not on the disk; empty: all changes are on the disk."""
        with self._lock:
            return self._store.problem

    @property
    def classes(self) -> list[ClassInfo]:
        """The classes, in the order of their shortcuts."""
        with self._lock:
            return list(self._classes)

    @property
    def exemplars(self) -> list[Exemplar]:
        """The exemplars, oldest first."""
        with self._lock:
            return list(self._exemplars)

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self._settings

    @property
    def attachments(self) -> dict[str, Any]:
        """Additional state by name: the prompt bank, the adaptation, and the search that is in progress."""
        with self._lock:
            return dict(self._attachments)

    def record(self, image: str) -> ImageRecord:
        """Record of the boxes and the state of an image.

        Raises:
            UnknownIdError: no image has this id.
        """
        with self._lock:
            if image not in self.files:
                raise UnknownIdError(image)
            return self._records.get(image, ImageRecord())

    def changed_images(self, since: int) -> list[str]:
        """Ids of the images that changed after a sequence number, in the order of the folder; 0: all images."""
        with self._lock:
            return [image for image in self.files if since == 0 or self._changed.get(image, 0) > since]

    def common_changed(self, since: int) -> bool:
        """Whether classes, exemplars or settings changed after a sequence number."""
        return since == 0 or self._common_changed > since

    def class_named(self, name: str) -> ClassInfo | None:
        """The class with a name; case and surrounding blanks are ignored. None: there is none."""
        with self._lock:
            return next((c for c in self._classes if class_key(c.name) == class_key(name)), None)

    def class_of(self, class_id: Any) -> ClassInfo:
        """The class with an id.

        Raises:
            InputError: no class has this id.
        """
        with self._lock:
            for info in self._classes:
                if info.id == class_id:
                    return info
        raise InputError(f'no class has the id {class_id!r}; load the page again')

    def image_size(self, image: str) -> tuple[int, int]:
        """Width and height of an image in pixels, which become part of its record.

        Raises:
            InputError: the image cannot be used.
        """
        record = self.record(image)
        if record.width and record.height:
            return record.width, record.height
        width, height = self.files.size(image)
        with self._lock:
            # The size follows from the file. It is not a change, and is saved with the next change.
            self._records[image] = replace(self.record(image), width=width, height=height)
        return width, height

    # ---------------------------------------------------------------- images

    def update_image(self, image: str, revision: int, boxes: Any, checked: Any) -> ImageRecord:
        """Replace the boxes of an image by those of the page.

        Args:
            image: Id of the image.
            revision: Revision of the image that the page has changed.
            boxes: List of boxes in the form of :func:`~dinor1.annotate.records.to_json`.
            checked: Whether the user has finished the image.

        Returns:
            The new record.

        Raises:
            UnknownIdError: no image has this id.
            InputError: a box is invalid.
            StaleRevisionError: the image has another revision; nothing is changed.
        """
        size = self.image_size(image)
        with self._lock:
            # Reject changes to an older state of the image.
            record = self.record(image)
            if revision != record.revision:
                raise StaleRevisionError(record)
            # Check the new state, and write it.
            if not isinstance(checked, bool):
                raise InputError(f'{self.files.name(image)}: checked must be true or false, got {checked!r}')
            valid = boxes_from_json(boxes, self.files.name(image), size, [c.id for c in self._classes])
            return self._save_image(image, replace(record, boxes=valid, checked=checked))

    def set_proposals(self, image: str, found: Sequence[Box], key: str) -> int:
        """Replace the proposals of an image by those of a search.

        A proposal is left out if its IoU with an annotation, or with a rejected proposal of its class, is above 0.7.

        Args:
            image: Id of the image.
            found: The proposals.
            key: Key of the prompts.

        Returns:
            The number of proposals that are not left out.
        """
        with self._lock:
            record = self.record(image)
            kept = [box for box in record.boxes if box.status != PROPOSED]
            new = [box for box in found if not any(_covers(old, box) for old in kept)]
            self._save_image(image, replace(record, boxes=(*kept, *new), searched=key))
            return len(new)

    def add_boxes(self, image: str, boxes: Sequence[Box]) -> int:
        """Add boxes to an image, except boxes that already exist (same class, IoU above 0.99).

        Args:
            image: Id of the image.
            boxes: Annotations or proposals.

        Returns:
            The number of boxes that were added.
        """
        with self._lock:
            # Leave out the boxes that the image already has.
            record = self.record(image)
            new: list[Box] = []
            for box in boxes:
                if not any(old.class_id == box.class_id and iou(old.bbox, box.bbox) > 0.99 for old in record.boxes):
                    new.append(box)
            # Write the record only if it changes.
            if new:
                self._save_image(image, replace(record, boxes=(*record.boxes, *new)))
            return len(new)

    # ---------------------------------------------------------------- classes

    def add_class(self, name: Any, color: Any = None) -> ClassInfo:
        """Add a class.

        Args:
            name: Name of the class.
            color: ``#rrggbb``; None: the next colour of the palette.

        Raises:
            InputError: the name is invalid or already used, or there are too many classes.
        """
        with self._lock:
            # Check the name and the number of classes.
            name = self._free_name(name)
            if len(self._classes) >= MAX_CLASSES:
                raise InputError(f'at most {MAX_CLASSES} classes are possible; remove one first')
            # Take the next id, which also determines the default color.
            number = max((c.id for c in self._classes), default=0) + 1
            color = PALETTE[(number - 1) % len(PALETTE)] if color is None else check_color(color, 'new class')
            info = ClassInfo(number, name, color)
            self._classes.append(info)
            self._save_common()
            return info

    def change_class(self, class_id: int, changes: Mapping[str, Any]) -> ClassInfo:
        """Change ``name``, ``color`` or ``by_name`` of a class.

        Raises:
            InputError: there is no such class, or a value is invalid.
        """
        with self._lock:
            info = self.class_of(class_id)
            # Check the changes, and apply them to a copy.
            for field, value in changes.items():
                if field == 'name':
                    info = replace(info, name=self._free_name(value, class_id))
                elif field == 'color':
                    info = replace(info, color=check_color(value, info.name))
                elif field == 'by_name' and isinstance(value, bool):
                    info = replace(info, by_name=value)
                else:
                    raise InputError(f'class {info.name!r}: {field}={value!r} is not possible; load the page again')
            # Replace the class now that all changes are valid.
            self._classes = [info if c.id == class_id else c for c in self._classes]
            self._save_common()
            return info

    def remove_class(self, class_id: int) -> None:
        """Remove a class that has no annotations, and its proposals.

        Raises:
            InputError: there is no such class, or it has annotations or exemplars.
        """
        with self._lock:
            info = self.class_of(class_id)
            # Never delete annotations, exemplars or embeddings together with a class.
            own = {image: [b for b in r.boxes if b.class_id == class_id] for image, r in self._records.items()}
            count = sum(box.status == ACCEPTED for boxes in own.values() for box in boxes)
            if count:
                raise InputError(f'class {info.name!r} has {count} boxes; give them another class or delete them first')
            if any(exemplar.class_id == class_id for exemplar in self._exemplars):
                raise InputError(f'class {info.name!r} has exemplars; remove them first')
            attached = [value for value in self._attachments.values() if isinstance(value, dict)]
            if any(entry[1] == class_id for value in attached for entry in value.get('classes', ())):
                raise InputError(f'class {info.name!r} is part of the prompt bank or adaptation; remove that first')
            # Remove proposals and class.
            for image, boxes in own.items():
                if boxes:
                    rest = tuple(box for box in self._records[image].boxes if box.class_id != class_id)
                    self._save_image(image, replace(self._records[image], boxes=rest))
            self._classes = [c for c in self._classes if c.id != class_id]
            self._save_common()

    # ---------------------------------------------------------------- exemplars, settings, attachments

    def add_exemplar(self, image: str, bbox: Any, class_id: Any, negative: Any = False) -> Exemplar:
        """Add an exemplar.

        Args:
            image: Id of its image.
            bbox: x1, y1, x2, y2 in pixels.
            class_id: Id of its class.
            negative: Whether it shows an object that must not be mistaken for the class.

        Raises:
            UnknownIdError: no image has this id.
            InputError: a value is invalid, the exemplar already exists, or there are too many exemplars.
        """
        # The size is read before the lock is taken, because this may take long.
        size = self.image_size(image)
        with self._lock:
            # Check the values.
            info = self.class_of(class_id)
            bbox = check_bbox(bbox, 'exemplar', size)
            if not isinstance(negative, bool):
                raise InputError(f'exemplar: negative must be true or false, got {negative!r}')
            if any(e.image == image and iou(e.bbox, bbox) > 0.99 and e.class_id == info.id for e in self._exemplars):
                raise InputError(f'this box is already an exemplar of {info.name!r}; draw a box around another object')
            if len(self._exemplars) >= MAX_EXEMPLARS:
                raise InputError(f'at most {MAX_EXEMPLARS} exemplars are possible; remove one first')
            # Add the exemplar.
            exemplar = Exemplar(new_id(), image, bbox, info.id, negative)
            self._exemplars.append(exemplar)
            self._save_common()
            return exemplar

    def change_exemplar(self, identity: str, negative: Any) -> Exemplar:
        """Make an exemplar positive or negative.

        Raises:
            UnknownIdError: there is no such exemplar.
            InputError: ``negative`` is not a boolean.
        """
        with self._lock:
            index = self._exemplar_index(identity)
            if not isinstance(negative, bool):
                raise InputError(f'exemplar: negative must be true or false, got {negative!r}')
            self._exemplars[index] = replace(self._exemplars[index], negative=negative)
            self._save_common()
            return self._exemplars[index]

    def remove_exemplar(self, identity: str) -> None:
        """Remove an exemplar; its annotation stays.

        Raises:
            UnknownIdError: there is no such exemplar.
        """
        with self._lock:
            del self._exemplars[self._exemplar_index(identity)]
            self._save_common()

    def change_settings(self, changes: Any) -> Settings:
        """Change settings.

        Raises:
            InputError: a key is unknown, or a value is out of range.
        """
        with self._lock:
            self._settings = changed_settings(self._settings, changes)
            self._save_common()
            return self._settings

    def attach(self, name: str, value: Any) -> None:
        """Store a value for JSON in the project under a name; None removes it."""
        with self._lock:
            if value is None:
                self._attachments.pop(name, None)
            else:
                self._attachments[name] = value
            self._save_common()

    def retry(self) -> bool:
        """Write the changes that could not be written before; returns whether all changes are on the disk now."""
        with self._lock:
            return self._store.retry()

    # ---------------------------------------------------------------- internal

    def _load(self) -> None:
        self.sequence = self._common_changed = 1
        self._changed: dict[str, int] = {}
        # Read classes, exemplars and settings.
        content = self._store.read(_PROJECT) or {}
        where = str(self.work_dir / _PROJECT)
        if not isinstance(content, dict) or content.get('version', _VERSION) != _VERSION:
            raise InputError(f'{where}: not a project of this version of dinor1; give another --work-dir')
        kinds = dict(classes=list, exemplars=list, settings=dict, attachments=dict)
        if wrong := [key for key, kind in kinds.items() if not isinstance(content.get(key, kind()), kind)]:
            raise InputError(f'{where}: {wrong[0]} is damaged; restore the file, or give another --work-dir')
        self._classes = [class_from_json(value, where) for value in content.get('classes', [])]
        ids = [c.id for c in self._classes]
        exemplars = [exemplar_from_json(value, where, ids) for value in content.get('exemplars', [])]
        self._exemplars = [exemplar for exemplar in exemplars if exemplar.image in self.files]
        self._settings = changed_settings(Settings(), content.get('settings', {}))
        self._attachments: dict[str, Any] = dict(content.get('attachments', {}))
        # Read the records of the images. Records of images that are not in the folder any more stay on the disk.
        self._records: dict[str, ImageRecord] = {}
        for image in self.files:
            value = self._store.read(_image_file(image))
            if value is not None:
                self._records[image] = image_from_json(value, str(self.work_dir / _image_file(image)), ids)

    def _free_name(self, name: Any, own_id: int | None = None) -> str:
        name = check_name(name, 'class')
        other = self.class_named(name)
        if other is not None and other.id != own_id:
            raise InputError(f'a class named {other.name!r} already exists; choose another name')
        return name

    def _exemplar_index(self, identity: str) -> int:
        for i, exemplar in enumerate(self._exemplars):
            if exemplar.id == identity:
                return i
        raise UnknownIdError(identity)

    def _save_image(self, image: str, record: ImageRecord) -> ImageRecord:
        """Store a record under the next revision, in memory and on the disk."""
        record = replace(record, revision=record.revision + 1)
        self._records[image] = record
        self.sequence += 1
        self._changed[image] = self.sequence
        self._store.write(_image_file(image), to_json(record) | dict(name=self.files.name(image)))
        return record

    def _save_common(self) -> None:
        """Save classes, exemplars, settings and attachments."""
        self.sequence += 1
        self._common_changed = self.sequence
        content = dict(
            version=_VERSION,
            classes=[to_json(c) for c in self._classes],
            exemplars=[to_json(e) for e in self._exemplars],
            settings=to_json(self._settings),
            attachments=self._attachments,
        )
        self._store.write(_PROJECT, content)


def new_id() -> str:
    """A new id of a box or an exemplar."""
    return secrets.token_hex(6)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def _covers(old: Box, new: Box) -> bool:
    """Whether an accepted or rejected box makes a proposal redundant."""
    if old.status == REJECTED and old.class_id != new.class_id:
        return False
    return iou(old.bbox, new.bbox) > 0.7


def _image_file(image: str) -> str:
    """File of the record of an image in the work directory."""
    return f'images/{image}.json'
