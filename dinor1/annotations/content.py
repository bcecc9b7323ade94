"""An annotation file in memory, which has COCO format independently of the format on disk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .findings import Finding
from .structure import is_valid

COCO, LVIS, ODVG = 'COCO', 'LVIS', 'ODVG'


@dataclass
class Content:
    """An annotation file.

    Attributes:
        path: The file.
        format: ``COCO``, ``LVIS`` or ``ODVG``.
        data: Its content with COCO's ``images``, ``annotations`` and ``categories``; of any type if ``findings`` report
            that the file is broken.
        findings: Defects that only the reader of the format can detect.
        file_names: Maps the record of an image to the paths that its file may have, the usual one first.
        locate: Maps a finding to its location in the file, such as ``annotation 12 (entry 3)``.
        named: Whether annotations have categories with names; the phrases of grounding data do not.
    """

    path: Path
    format: str
    data: Any
    findings: list[Finding] = field(default_factory=list)
    file_names: Callable[[dict], list[str]] = lambda image: [image['file_name']]
    locate: Callable[['Content', Finding], str] = lambda content, finding: coco_location(content.data, finding)
    named: bool = True

    def records(self, section: str) -> list:
        """The list ``section``, or an empty one if the file has none."""
        found = self.data.get(section) if isinstance(self.data, dict) else None
        return found if isinstance(found, list) else []

    def valid(self, section: str) -> list[tuple[int, dict]]:
        """Valid records of ``images`` or ``categories`` with their indices."""
        return [(i, record) for i, record in enumerate(self.records(section)) if is_valid(section, record)]

    def location(self, finding: Finding) -> str:
        """Location of a finding, in the terms of the file's format; empty for a finding of the whole file."""
        return self.locate(self, finding)


def coco_location(data: Any, finding: Finding) -> str:
    """``annotation 12 (entry 3)``: id and index; empty for a finding of the whole file."""
    if finding.entry < 0:
        return ''
    record = data[finding.section][finding.entry]
    singular = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}[finding.section]
    identity = record.get('id') if isinstance(record, dict) else None
    return f'{singular} {identity} (entry {finding.entry})'
