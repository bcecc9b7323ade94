"""An annotation file in memory: COCO's form, whatever the form on disk."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinor1.errors import InputError

from .findings import Finding
from .structure import is_valid

COCO, LVIS, ODVG = 'COCO', 'LVIS', 'ODVG'


@dataclass
class Content:
    """An annotation file.

    Attributes:
        path: The file.
        format: ``COCO``, ``LVIS`` or ``ODVG``.
        data: Its content with COCO's ``images``, ``annotations`` and ``categories``; of any type if ``findings`` say
            that it is not that.
        findings: Defects that only the reader could see.
        file_names: Of an image's record, the paths that its picture may have; the first is the usual one.
        place: Of a finding, its place in the file as its owner knows it, such as ``annotation 12 (entry 3)``.
        named: Whether annotations have categories with names; the phrases of grounding data have not.
    """

    path: Path
    format: str
    data: Any
    findings: list[Finding] = field(default_factory=list)
    file_names: Callable[[dict], list[str]] = lambda image: [image['file_name']]
    place: Callable[['Content', Finding], str] = lambda content, finding: coco_place(content.data, finding)
    named: bool = True

    def records(self, section: str) -> list:
        """The list ``section``, or an empty one if the file has none."""
        found = self.data.get(section) if isinstance(self.data, dict) else None
        return found if isinstance(found, list) else []

    def valid(self, section: str) -> list[tuple[int, dict]]:
        """Valid records of ``images`` or ``categories`` with their places."""
        return [(i, record) for i, record in enumerate(self.records(section)) if is_valid(section, record)]


def coco_place(data: Any, finding: Finding) -> str:
    """``annotation 12 (entry 3)``: id and place; empty for a finding of the whole file."""
    if finding.entry < 0:
        return ''
    record = data[finding.section][finding.entry]
    singular = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}[finding.section]
    identity = record.get('id') if isinstance(record, dict) else None
    return f'{singular} {identity} (entry {finding.entry})'


def read_text(path: Path) -> str:
    """Text of a file.

    Raises:
        InputError: it does not exist or cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode('utf-8-sig')
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; check the path') from None
    except IsADirectoryError:
        raise InputError(f'{path}: a folder where a file is expected; give a file') from None
    except PermissionError:
        raise InputError(f'{path}: may not be read; change its permissions') from None


def parse(text: str, first_line: int = 1) -> tuple[Any, str]:
    """JSON content and what is wrong with it, with line and column; an empty text: nothing.

    Args:
        text: To parse.
        first_line: Number of its first line in the file.
    """
    try:
        return json.loads(text), ''
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        return None, f'not valid JSON at line {line}, column {error.colno} ({error.msg})'
    except RecursionError:
        return None, f'not valid JSON at line {first_line}, column 1 (nested too deeply)'
