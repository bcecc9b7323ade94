"""The detector behind the page: prompts from the exemplars of a project, proposals for its images."""

import hashlib
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.annotate.project import Project, new_id
from dinor1.annotate.records import PROPOSED, Box, check_name
from dinor1.inference import DINOR1Inferencer
from dinor1.structures import PromptBank
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.io import atomic_path

# Detections below this score do not become proposals. The slider of the page filters the others.
MIN_SCORE = 0.05
BANK, ADAPTATION = 'bank', 'adaptation'
# An invisible separator, which no class name may have.
_NEGATIVE = '\u2063negative'


@dataclass(frozen=True)
class Prompts:
    """The prompts of a search in a project.

    Attributes:
        visual: Image files with boxes and the class name of each box.
        text: Class names that are searched for by name.
        bank: File of a prompt bank; None: there is none.
        bank_names: Maps each class name in the bank to the current name of the class, which may have been renamed.
        negative: Names of negative classes.
        class_ids: Maps the names of the positive classes to their ids.
        key: Digest of all other attributes and of the settings of the search. Images that were searched with this key
            need no new search.
    """

    visual: tuple[tuple[str, tuple[tuple[float, ...], ...], tuple[str, ...]], ...]
    text: tuple[str, ...]
    bank: Path | None
    bank_names: Mapping[str, str]
    negative: tuple[str, ...]
    class_ids: Mapping[str, int]
    key: str

    @property
    def has_positive(self) -> bool:
        """Whether at least one prompt is positive."""
        given = {*self.text, *self.bank_names.values(), *(name for _, _, names in self.visual for name in names)}
        return bool(given - set(self.negative))


class Found(NamedTuple):
    """A detection: x1, y1, x2, y2 in pixels, score in [0, 1], and class name."""

    bbox: tuple[float, ...]
    score: float
    name: str


class Adapted(NamedTuple):
    """An adaptation: whether the result is kept, a sentence with the figures, and the class names in its bank."""

    kept: bool
    figures: str
    names: tuple[str, ...]


class ExemplarDetector:
    """An inferencer that only one thread uses at a time, and that embeds prompts only if they change.

    Args:
        inferencer: The detector.
        min_score: Lowest score of a detection, in [0, 1].
    """

    def __init__(self, inferencer: DINOR1Inferencer, min_score: float = MIN_SCORE) -> None:
        self._inferencer, self._min_score = inferencer, min_score
        self._lock = threading.Lock()
        self._current = ''
        self.weights = fingerprint(inferencer.model)

    @property
    def has_text(self) -> bool:
        """Whether classes can be searched for by name."""
        return self._inferencer.model.language_model is not None

    def find(self, path: Path, prompts: Prompts, nms_thr: float, class_agnostic: bool) -> list[Found]:
        """Detect objects on an image file; the detection with the highest score comes first.

        Args:
            path: The file.
            prompts: Prompts of the search.
            nms_thr: A detection is removed if its IoU with a detection of higher score is larger, in [0, 1].
            class_agnostic: Whether detections of different classes are compared too.

        Raises:
            InputError: an image, a box or the bank cannot be used.
        """
        with self._lock:
            # Encode the prompts, unless the previous image had the same ones.
            if prompts.key != self._current:
                self._set_prompts(prompts)
                self._current = prompts.key
            # Detect objects, and convert them to plain numbers.
            options: dict[str, Any] = dict(nms_thr=nms_thr, class_agnostic_nms=class_agnostic)
            (sample,) = self._inferencer.predict(str(path), 1, self._min_score, **options)
            found: Any = sample.pred_instances
            rows = zip(found.bboxes.tolist(), found.scores.tolist(), found.label_names, strict=True)
            return [Found(tuple(bbox), score, name) for bbox, score, name in rows]

    def read_bank(self, path: Path) -> PromptBank:
        """Read a prompt bank of this detector.

        Raises:
            InputError: the bank is damaged, or belongs to another detector.
        """
        return PromptBank.load(path, self.weights)

    def adapt(
        self,
        prompts: Prompts,
        images: Sequence[Path],
        boxes: Sequence[Sequence[tuple[float, ...]]],
        names: Sequence[Sequence[str]],
        out: Path,
    ) -> Adapted:
        """Tune the prompts on annotated images, see :meth:`~dinor1.inference.DINOR1Inferencer.adapt`.

        Args:
            prompts: Prompts to start from. Without positive prompts, the tuning starts from the boxes alone.
            images: Image files on which all objects have boxes.
            boxes: m boxes for each image, m >= 1.
            names: m class names for each image.
            out: File for the tuned prompts, which is written only if they are kept.

        Raises:
            InputError: the detector or the prompts cannot be tuned.
        """
        with self._lock:
            # Set the initial prompts, and tune them.
            self._current = ''
            if prompts.has_positive:
                self._set_prompts(prompts)
            else:
                self._inferencer.reset_prompts()
            result = self._inferencer.adapt([str(path) for path in images], list(boxes), list(names))
            # Write the tuned prompts if they are kept.
            bank = self._inferencer.bank
            if not result.kept or bank is None:
                return Adapted(False, str(result), ())
            self._inferencer.save_bank(out)
            return Adapted(True, str(result), bank.names)

    def _set_prompts(self, prompts: Prompts) -> None:
        self._current = ''
        bank = None
        if prompts.bank is not None:
            bank = self.read_bank(prompts.bank)
            bank = replace(bank, names=tuple(prompts.bank_names[name] for name in bank.names))
        self._inferencer.set_prompts(list(prompts.visual), prompts.text, bank, prompts.negative)


def project_prompts(project: Project, weights: str, adapting_to: Collection[str] | None = None) -> Prompts:
    """Collect the prompts of a project: its adaptation or its bank, its exemplars, and classes searched for by name.

    Args:
        project: The project.
        weights: Fingerprint of the detector, which is part of the key.
        adapting_to: Ids of images. The prompts are the start of an adaptation to these images: they omit the last
            adaptation, and the positive exemplars on these images, because all boxes there become exemplars. None: the
            prompts are for a search.

    Raises:
        InputError: there is no positive prompt to search for, or the image of an exemplar cannot be read.
    """
    classes, attachments, exemplars = {c.id: c for c in project.classes}, project.attachments, project.exemplars
    adaptation = attachments.get(ADAPTATION) if adapting_to is None else None
    source = adaptation or attachments.get(BANK)
    # Group the exemplars by image, without those that are already part of the adaptation.
    included = set(adaptation['exemplars']) if adaptation else set()
    if adapting_to is not None:
        included = {e.id for e in exemplars if e.image in adapting_to and not e.negative}
    by_image: dict[str, tuple[list[tuple[float, ...]], list[str]]] = {}
    for exemplar in exemplars:
        if exemplar.id not in included:
            boxes, names = by_image.setdefault(exemplar.image, ([], []))
            boxes.append(exemplar.bbox)
            names.append(prompt_name(classes[exemplar.class_id].name, exemplar.negative))
    for image in by_image:
        project.image_size(image)
    files = project.files
    visual = tuple((str(files.path(i)), tuple(boxes), tuple(names)) for i, (boxes, names) in by_image.items())
    # Map the class names of the bank to the current names.
    entries = source['classes'] if source else []
    bank_names = {name: prompt_name(classes[class_id].name, hidden) for name, class_id, hidden in entries}
    # Collect the negative classes.
    used = [*bank_names.values(), *(name for _, _, names in visual for name in names)]
    negative = tuple(dict.fromkeys(name for name in used if name.endswith(_NEGATIVE)))
    text = tuple(c.name for c in classes.values() if c.by_name)
    # Compute the key from everything that affects the result of a search.
    settings = project.settings
    versions = [files.version(image) for image in by_image]
    parts = [visual, versions, text, source, bank_names, negative, settings.nms_thr, settings.class_agnostic, weights]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
    bank = project.work_dir / source['file'] if source else None
    ids = {c.name: c.id for c in classes.values()}
    prompts = Prompts(visual, text, bank, bank_names, negative, ids, key)
    if adapting_to is None and not prompts.has_positive:
        raise InputError('nothing to search for: select a box and press E to make it an exemplar')
    return prompts


def prompt_name(name: str, negative: bool) -> str:
    """Name of a class among the prompts; a negative class gets a suffix that no class name can contain."""
    return name + _NEGATIVE if negative else name


def is_negative(name: str) -> bool:
    """Whether a name of :func:`prompt_name` belongs to a negative class."""
    return name.endswith(_NEGATIVE)


def as_proposals(project: Project, prompts: Prompts, found: Sequence[Found], image: str) -> list[Box]:
    """Convert detections to proposals.

    Args:
        project: The project.
        prompts: The prompts of the search.
        found: Detections on the image.
        image: Id of the image, whose size limits the boxes.
    """
    width, height = project.image_size(image)
    existing, boxes = {c.id for c in project.classes}, []
    for item in found:
        # A class may have been removed during the search. A detection may extend beyond the image, and the part inside
        # may be thinner than one pixel, which is the minimum for a box.
        class_id = prompts.class_ids.get(item.name)
        x1, y1, x2, y2 = item.bbox
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if class_id in existing and x2 - x1 >= 1 and y2 - y1 >= 1:
            bbox = (round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2))
            boxes.append(Box(new_id(), bbox, class_id, PROPOSED, min(max(item.score, 0.0), 1.0)))
    return boxes


def load_bank(project: Project, detector: ExemplarDetector, content: bytes, name: str) -> None:
    """Attach a prompt bank to a project and replace an earlier one; its classes become classes of the project.

    Args:
        project: The project.
        detector: The detector, which must have made the bank.
        content: Content of the file of the bank.
        name: Name of the file, which the page shows.

    Raises:
        InputError: the bank is damaged, belongs to another detector, or has an invalid class name.
    """
    # Check the file before the project is changed.
    file = f'bank-{hashlib.sha256(content).hexdigest()[:16]}.safetensors'
    path = project.work_dir / file
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
        try:
            bank = detector.read_bank(temporary)
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), name)) from None
    names = [check_name(class_name, name) for class_name in bank.names]
    # Add the classes.
    infos = [project.class_named(class_name) or project.add_class(class_name) for class_name in names]
    entries = [[original, info.id, False] for original, info in zip(bank.names, infos, strict=True)]
    project.attach(BANK, dict(file=file, name=name, classes=entries))
