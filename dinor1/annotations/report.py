"""Reports of the checks, as text and as JSON."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from .check import Checked
from .findings import ERROR, KINDS, WARNING, Finding


def text_report(results: Iterable[Checked], limit: int = 5) -> str:
    """Text report: for each file its counts, then each kind of defect with its remedy and its first cases.

    Args:
        results: Checked files.
        limit: Maximum number of cases of one kind that are shown; the others are counted.
    """
    lines = []
    for checked in results:
        lines.append(_headline(checked))
        # Group the findings by kind, errors first.
        by_kind = defaultdict(list)
        for finding in sorted(checked.findings, key=lambda finding: finding.severity != ERROR):
            by_kind[finding.kind].append(finding)
        for kind, findings in by_kind.items():
            lines += _kind_lines(checked, kind, findings, limit)
        if not by_kind:
            lines.append('  no defects')
    return '\n'.join(lines)


def _headline(checked: Checked) -> str:
    content = checked.content
    # Count the records.
    nouns = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}
    sizes = [_number(len(content.records(section)), noun) for section, noun in nouns.items()]
    parts = [f'{content.path} ({content.format}): {", ".join(sizes)}']
    # State whether the images were checked.
    if checked.images_checked and checked.img_dir is not None:
        parts.append(f'{_number(len(checked.image_files), "image")} opened in {checked.img_dir}')
    elif not checked.images_checked:
        parts.append('images not checked')
    return '; '.join(parts)


def _kind_lines(checked: Checked, kind: str, findings: list[Finding], limit: int) -> list[str]:
    # State the kind and its number of cases.
    count = f', {len(findings):,} times' if len(findings) > 1 else ''
    repair = _repair_of(findings[0])
    lines = [f'  {KINDS[kind].severity}: {kind}{count}']
    # List the first cases.
    for finding in findings[:limit]:
        location = checked.content.location(finding)
        lines.append(f'    {location + ": " if location else ""}{finding.detail}')
    if len(findings) > limit:
        lines.append(f'    and {len(findings) - limit:,} more')
    # State the remedy, and what --fix does.
    lines.append(f'    remedy: {findings[0].advice}' + (f'; --fix: {repair}' if repair else ''))
    return lines


def _repair_of(finding: Finding) -> str:
    # Defects of a whole file are not repaired, except for broken lines of an ODVG file, which are left out.
    return KINDS[finding.kind].repair if finding.entry >= 0 or finding.kind == 'broken line' else ''


def summary(results: Iterable[Checked]) -> str:
    """Counts in one line, such as ``3 files: 1 error, 12 warnings``."""
    results = list(results)
    counts = count_severities(results)
    return f'{_number(len(results), "file")}: {_number(counts[ERROR], ERROR)}, {_number(counts[WARNING], WARNING)}'


def count_severities(results: Iterable[Checked]) -> Counter:
    """Number of findings by severity."""
    return Counter(finding.severity for checked in results for finding in checked.findings)


def as_json(results: Iterable[Checked]) -> dict[str, Any]:
    """All findings as a JSON object: ``errors``, ``warnings``, and the counts and findings of each file."""
    results = list(results)
    counts = count_severities(results)
    return {'errors': counts[ERROR], 'warnings': counts[WARNING], 'files': [_file_record(c) for c in results]}


def _file_record(checked: Checked) -> dict[str, Any]:
    content = checked.content
    return {
        'file': str(content.path),
        'format': content.format,
        'images': len(content.records('images')),
        'annotations': len(content.records('annotations')),
        'categories': len(content.records('categories')),
        'img_dir': None if checked.img_dir is None else str(checked.img_dir),
        'images_opened': len(checked.image_files),
        'findings': [
            {
                'severity': finding.severity,
                'kind': finding.kind,
                'location': content.location(finding),
                'section': finding.section or None,
                'entry': finding.entry if finding.entry >= 0 else None,
                'id': _id_of(checked, finding),
                'detail': finding.detail,
                'remedy': finding.advice,
                'repairable': bool(_repair_of(finding)),
            }
            for finding in checked.findings
        ],
    }


def _id_of(checked: Checked, finding: Finding) -> Any:
    if finding.entry < 0:
        return None
    record = checked.content.data[finding.section][finding.entry]
    identity = record.get('id') if isinstance(record, dict) else None
    return identity if isinstance(identity, int | str) else None


def _number(count: int, noun: str) -> str:
    plural = f'{noun[:-1]}ies' if noun.endswith('y') else f'{noun}s'
    return f'{count:,} {noun if count == 1 else plural}'


def format_counts(reasons: Counter) -> str:
    """Counts in one line, such as ``2 x crowd, 1 x box without area``; ``nothing`` if all are zero."""
    return ', '.join(f'{count:,} x {reason}' for reason, count in sorted(reasons.items()) if count) or 'nothing'
