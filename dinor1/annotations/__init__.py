"""Annotation files: reading, checking, repairing and converting them.

Needs no deep-learning library and imports fast. :mod:`dinor1.datasets.validation` makes the same checks whenever a
data set is loaded.
"""

from .check import Checked, check_path, read
from .findings import KINDS, Finding, Kind
from .repair import repair, write
from .report import as_json, format_counts, summary, text_report

__all__ = [
    'KINDS',
    'Checked',
    'Finding',
    'Kind',
    'as_json',
    'check_path',
    'format_counts',
    'read',
    'repair',
    'summary',
    'text_report',
    'write',
]
