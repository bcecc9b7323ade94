"""Checks of category ids and names: defects that do not stop training, but give wrong classes.

An annotation refers to its class by a number, and a reader of the file cannot see that the number is wrong. These
checks compare all numbers of a file.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from .findings import Finding

_NUMBER = re.compile(r'[+-]?\d+(\.\d+)?')


def numbering_error(known: Collection, used: Collection) -> Finding | None:
    """The error that the unknown category ids of a file have in common.

    Leaving out the annotations with unknown ids would not help: the remaining ones have wrong classes.

    Args:
        known: Ids of ``categories``.
        used: Ids that annotations refer to.

    Returns:
        ``category ids off by one`` if adding or subtracting 1 makes every used id known; ``category ids are
        positions`` if the used ids are 0..K-1 or 1..K for K categories whose ids have gaps; ``category ids of another
        list`` if more than half of the used ids are unknown; otherwise None.
    """
    # Find the unknown ids.
    known, used = set(known), {value for value in used if type(value) is int}
    unknown = used - known
    if not unknown or not known or any(type(value) is not int for value in known):
        return None
    text = f'annotations use ids {_span(used)}, categories have {_span(known)}'
    # Check for ids that are off by one.
    shifts = [step for step in (1, -1) if {value + step for value in used} <= known]
    if len(shifts) == 1:
        return Finding('category ids off by one', f'{text}: with {shifts[0]:+d} all would be known', 'annotations')
    # Check for indices instead of ids.
    gaps = max(known) - min(known) + 1 > len(known)
    for first in (0, 1):
        if gaps and len(unknown) > 1 and min(used) >= first and max(used) < len(known) + first:
            return Finding(
                'category ids are positions', f'{text}, with gaps: the used ids count from {first}', 'annotations'
            )
    # Check for ids of another list.
    if len(unknown) > 1 and 2 * len(unknown) > len(used):
        detail = f'{text}: {len(unknown)} of {len(used)} used ids are unknown'
        return Finding('category ids of another list', detail, 'annotations')
    return None


def name_warnings(names: Sequence[str]) -> Iterator[Finding]:
    """Findings about names that a reader or a language model may misunderstand, or cannot read.

    Args:
        names: In the order of the file's ``categories``.
    """
    if names and all(_NUMBER.fullmatch(name.strip()) for name in names):
        shown = ', '.join(repr(name) for name in names[:3])
        yield Finding('numeric class name', f'all class names are numbers: {shown}', 'categories')
    # Names that differ in case, spaces, '_' or '-' only have the same key.
    alike = defaultdict(list)
    for index, name in enumerate(names):
        alike[re.sub(r'[\s_-]+', ' ', name.strip()).casefold()].append(index)
        # Text in round brackets is not part of a text prompt.
        if not any(character.isalnum() for character in re.sub(r'\(.*\)', '', name)):
            detail = f'{name!r} is only brackets or punctuation'
            yield Finding('class name without a word', detail, 'categories', index)
        if name != name.strip():
            yield Finding('untrimmed class name', f'{name!r} begins or ends with a space', 'categories', index)
    for indices in alike.values():
        if len({names[index] for index in indices}) > 1:
            shown = ', '.join(repr(names[index]) for index in indices)
            yield Finding('similar class names', f'{shown} differ in case or spaces only', 'categories', indices[-1])


def usage_warnings(categories: Sequence[dict], used: Collection, used_elsewhere: Collection = ()) -> Iterator[Finding]:
    """Warnings about gaps in the ids, and about classes without annotations.

    Args:
        categories: Valid records.
        used: Category ids of the annotations.
        used_elsewhere: Names of the classes with annotations in other splits of the same data.
    """
    # Find gaps.
    ids = sorted(category['id'] for category in categories)
    if ids and ids[-1] - ids[0] + 1 > len(set(ids)):
        detail = f'{len(ids)} ids from {ids[0]} to {ids[-1]}, the first gap after {_first_gap(ids)}'
        yield Finding('category id gap', detail, 'categories')
    # Find classes without annotations.
    empty = [index for index, category in enumerate(categories) if category['id'] not in used]
    children = defaultdict(int)
    for category in categories:
        children[category.get('supercategory')] += 1
    for index in empty:
        category = categories[index]
        name = category['name']
        if children[name] == len(categories) - 1 and len(categories) > 1:
            detail = f'{name!r} has no annotation and is the supercategory of all others'
            yield Finding('class of classes', detail, 'categories', index)
        elif len(empty) == 1 and len(ids) > 2 and category['id'] in (ids[0], ids[-1]) and name not in used_elsewhere:
            end = 'first' if category['id'] == ids[0] else 'last'
            detail = f'{name!r}, the {end} class, is the only one without annotations'
            yield Finding('first or last class empty', detail, 'categories', index)
        else:
            yield Finding('empty class', f'{name!r} has no annotation', 'categories', index)


def differences(ids_by_file: Mapping[str, Mapping[str, int]]) -> dict[str, Finding]:
    """Find files of one data set that contradict each other: a name with two ids, or an id with two names.

    Args:
        ids_by_file: File -> category name -> id.

    Returns:
        File -> finding, for the files that contradict an earlier one: the first with the same name or id.
    """
    # Remember the first file with each name and with each id.
    found: dict[str, Finding] = {}
    first_id: dict[str, tuple[int, str]] = {}
    first_name: dict[int, tuple[str, str]] = {}
    for file, ids in ids_by_file.items():
        conflicts, steps, other = [], set(), ''
        # Compare with the first file that has the same name or id.
        for name, number in ids.items():
            seen_id, its_file = first_id.setdefault(name, (number, file))
            seen_name, name_file = first_name.setdefault(number, (name, file))
            if seen_id != number:
                conflicts.append(f'{name!r} is {number} here and {seen_id} in {its_file}')
                steps.add(number - seen_id)
                other = its_file
            elif seen_name != name:
                conflicts.append(f'{number} is {name!r} here and {seen_name!r} in {name_file}')
        # Summarise the conflicts, and recognise a constant shift.
        if conflicts:
            detail = '; '.join(conflicts[:2]) + (f'; and {len(conflicts) - 2} more' if len(conflicts) > 2 else '')
            if len(steps) == 1 and len(conflicts) > 2:
                detail = f'all ids differ by {steps.pop():+d} from those of {other}: {detail}'
            found[file] = Finding('category ids differ between files', detail, 'categories')
    return found


def _span(values: set[int]) -> str:
    return f'{min(values)}..{max(values)}' if len(values) > 1 else f'{min(values)} only'


def _first_gap(ids: list[int]) -> int:
    return next(low for low, high in zip(ids, ids[1:], strict=False) if high > low + 1)
