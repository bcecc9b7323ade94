"""ODinW (Object Detection in the Wild): its 35 data sets, their files, and the class names offered to a detector.

GLIP, arXiv 2112.03857, introduced 13 of them; ELEVATER, arXiv 2204.08790, has all 35. ``manifest.json`` beside this
file describes each set, with sources and known problems. The manifest also describes a second layout, ``small``: the
small real sets of this project, some of which are members of ODinW with other files
(``configs/_base_/datasets/small_coco.py``).
"""

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json, write_json

MANIFEST = Path(__file__).with_name('manifest.json')
BENCHMARKS = ('ODinW-13', 'ODinW-35')
LAYOUTS = ('odinw', 'small')


class Split(NamedTuple):
    """Files of one split.

    Attributes:
        ann_file: COCO file, below the set's root.
        img_dir: Folder that ``file_name`` is relative to, below the set's root.
        images: Number of images; ``None`` if it is not known.
        boxes: Number of annotations; ``None`` if it is not known.
    """

    ann_file: str
    img_dir: str
    images: int | None
    boxes: int | None


class BenchmarkSet(NamedTuple):
    """One set of a layout.

    Attributes:
        name: Its name in the layout.
        member: The set of ODinW that it is or represents; ``None`` for a set that is not a member.
        root: Folder below the data root.
        splits: ``train``, ``val``, ``test`` and, for some sets, ``minival``.
        evaluate: The split that the benchmark reports on.
        categories: Names that are offered to a detector, in the order of the category ids; ``None``: those of the file.
        file_categories: Names in ODinW's file, if they differ from ``categories``.
        caption_prompts: Category -> the phrase that GLIP uses instead of the name.
        deviation: How the files differ from the released ones; ``None`` for the released files.
        traps: Known problems.
    """

    name: str
    member: str | None
    root: str
    splits: dict[str, Split]
    evaluate: str
    categories: tuple[str, ...] | None
    file_categories: tuple[str, ...] | None
    caption_prompts: dict[str, str]
    deviation: str | None
    traps: tuple[str, ...]

    def split_for(self, policy: str) -> str:
        """The split to evaluate for ``policy`` (``test`` or ``val``); ``evaluate`` if the set has no such split."""
        return policy if policy in self.splits else self.evaluate

    def ann_path(self, data_root: str | Path, split: str) -> Path:
        """Annotation file of a split."""
        return Path(data_root) / self.root / self.splits[split].ann_file


class Annotations(NamedTuple):
    """An annotation file that was checked against the manifest.

    Attributes:
        path: The file to read: the released one, or a copy with other category names.
        images: Number of images found.
        boxes: Number of annotations found.
        names: Names of the categories, in the order of their ids.
        warning: How the counts differ from those of the manifest; empty if they do not.
    """

    path: Path
    images: int
    boxes: int
    names: tuple[str, ...]
    warning: str


@functools.cache
def _manifest() -> dict[str, Any]:
    return read_json(MANIFEST)


def members(benchmark: str) -> tuple[str, ...]:
    """Names of the sets of ``ODinW-13`` or ``ODinW-35``.

    Raises:
        InputError: the name is unknown.
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f'{benchmark!r} is not a benchmark; choose {" or ".join(BENCHMARKS)}')
    return tuple(s['name'] for s in _manifest()['sets'] if s['odinw13'] or benchmark == 'ODinW-35')


def load_sets(layout: str = 'odinw') -> dict[str, BenchmarkSet]:
    """All sets of a layout by name: ``odinw`` has the released files, ``small`` those of this project.

    Raises:
        InputError: the layout is unknown.
    """
    if layout not in LAYOUTS:
        raise InputError(f'layout {layout!r}: choose {" or ".join(LAYOUTS)}')
    official = {entry['name']: _read_set(entry, entry) for entry in _manifest()['sets']}
    if layout == 'odinw':
        return official
    # A small set has the names of the member that it represents.
    small = {}
    for entry in _manifest()['small_sets']:
        member = official.get(entry['member'])
        categories = None if member is None else member.categories
        captions = {} if member is None else member.caption_prompts
        small[entry['name']] = _read_set(entry, dict(categories=categories, caption_prompts=captions))
    return small


def _read_set(entry: dict[str, Any], names: dict[str, Any]) -> BenchmarkSet:
    as_tuple = {key: tuple(names[key]) if names.get(key) else None for key in ('categories', 'file_categories')}
    return BenchmarkSet(
        name=entry['name'],
        member=entry.get('member', entry['name']),
        root=entry['root'],
        splits={name: Split(**split) for name, split in entry['splits'].items()},
        evaluate=entry['evaluate'],
        **as_tuple,
        caption_prompts=names.get('caption_prompts', {}),
        deviation=entry.get('deviation'),
        traps=tuple(entry['traps']),
    )


def choose_sets(sets: dict[str, BenchmarkSet], names: Sequence[str] | None) -> dict[str, BenchmarkSet]:
    """Choose sets of a layout by name, in the order of the layout.

    Args:
        sets: From :func:`load_sets`.
        names: Names of sets; ``ODinW-13`` and ``ODinW-35`` mean all their members. ``None``: all sets.

    Raises:
        InputError: a name is not in the layout.
    """
    if names is None:
        return sets
    chosen = set()
    # A name is that of a benchmark, or of a single set.
    for name in names:
        if name in BENCHMARKS:
            chosen |= {s.name for s in sets.values() if s.member in members(name)}
        elif name in sets:
            chosen.add(name)
        else:
            near = difflib.get_close_matches(name, sets, n=3, cutoff=0.3)
            hint = f'did you mean {", ".join(near)}?' if near else f'choose among {", ".join(sets)}'
            raise InputError(f'no set is named {name!r}; {hint}')
    return {name: s for name, s in sets.items() if name in chosen}


def find_sets(
    sets: dict[str, BenchmarkSet], data_root: str | Path, policy: str, with_train: bool
) -> tuple[dict[str, BenchmarkSet], dict[str, str]]:
    """Find the sets whose annotation files exist.

    Args:
        sets: From :func:`choose_sets`.
        data_root: Folder of all sets.
        policy: ``test`` or ``val``, see :meth:`BenchmarkSet.split_for`.
        with_train: Whether the training split is needed too, for exemplars.

    Returns:
        The sets whose files exist, and the first missing file of each other set.

    Raises:
        InputError: no set has its files.
    """
    # Find the first missing file of each set.
    missing = {}
    for name, s in sets.items():
        for split in dict.fromkeys([s.split_for(policy), *(['train'] if with_train else [])]):
            path = s.ann_path(data_root, split)
            if not path.is_file():
                missing.setdefault(name, str(path))
    if len(missing) == len(sets):
        raise InputError(f'{data_root}: none of {len(sets)} sets is here, for example {next(iter(missing.values()))}')
    return {name: s for name, s in sets.items() if name not in missing}, missing


def prepare_annotations(
    s: BenchmarkSet, data_root: str | Path, split: str, copy_to: str | Path, captions: bool = False
) -> Annotations:
    """Check an annotation file against the manifest, and copy it if its categories must be renamed.

    Args:
        s: The set.
        data_root: Folder of all sets.
        split: A key of ``s.splits``.
        copy_to: Path of the copy, if one is needed. The original is never changed.
        captions: Use GLIP's phrases instead of names, for the classes that have one.

    Raises:
        InputError: the file is not a COCO file, or its categories are not those of the manifest.
    """
    # Read and check the file.
    path = s.ann_path(data_root, split)
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ('images', 'annotations')):
        raise InputError(f"{path}: not a COCO file, it has no lists 'images' and 'annotations'")
    try:
        categories = sorted(data['categories'], key=lambda c: c['id'])
        found = tuple(c['name'] for c in categories)
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a COCO file, its 'categories' have no id and name") from None
    if s.categories is not None and found not in (s.categories, s.file_categories):
        raise InputError(f'{path}: its categories are not those of {s.name} in the manifest, {_difference(s, found)}')

    # Rename the categories in a copy.
    offered = tuple((s.caption_prompts if captions else {}).get(name, name) for name in s.categories or found)
    if offered != found:
        renamed = [category | {'name': name} for category, name in zip(categories, offered, strict=True)]
        path = Path(copy_to).absolute()
        write_json(data | {'categories': renamed}, path)
    # Compare the counts with the manifest.
    counts = dict(images=len(data['images']), boxes=len(data['annotations']))
    expected = s.splits[split]
    differing = [
        f'{number} {kind} instead of {getattr(expected, kind)}'
        for kind, number in counts.items()
        if getattr(expected, kind) not in (None, number)
    ]
    warning = f'{s.name} {split}: {", ".join(differing)} in the manifest' if differing else ''
    return Annotations(path, **counts, names=offered, warning=warning)


def _difference(s: BenchmarkSet, found: tuple[str, ...]) -> str:
    known = set(s.categories) | set(s.file_categories or ())
    surplus = [name for name in found if name not in known]
    lacking = [name for name in s.categories if name not in found]
    if surplus or lacking:
        return f'it has {surplus[:3]} and lacks {lacking[:3]}; give the released file'
    return 'their ids are in another order; give the released file'
