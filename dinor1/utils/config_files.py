"""Config files that come with dinor1, found by name."""

import difflib
import os
from pathlib import Path

from dinor1.utils.errors import InputError

# In the repository, this is a link to the folder ``configs``. MMEngine looks here for ``_base_ = 'dinor1::...'``.
CONFIGS = Path(__file__).parent.with_name('.mim') / 'configs'


def find_config(name: str | os.PathLike) -> Path:
    """Find the file of a config.

    Args:
        name: A file, or the name of a config that comes with dinor1: its path in ``configs``, with or without ``.py``,
            such as ``dino_r1/dino-r1_nano_1xb8_6e_shapes``.

    Raises:
        InputError: there is no such file; the message proposes a similar name.
    """
    if Path(name).is_file():
        return Path(name)
    # Look for a config of dinor1; commands in the repository write 'configs/...'.
    relative = os.path.normpath(name).removeprefix(f'configs{os.sep}')
    if not os.path.isabs(relative) and not relative.startswith('..'):
        for candidate in (CONFIGS / relative, CONFIGS / f'{relative}.py'):
            if candidate.is_file():
                return candidate
    # Propose a similar path, or a similar file name.
    names = config_names()
    stems = {Path(known).name: known for known in names}
    wanted = Path(name).name.removesuffix('.py')
    close = difflib.get_close_matches(relative.removesuffix('.py'), names, n=1, cutoff=0.8)
    close = close or [stems[stem] for stem in difflib.get_close_matches(wanted, stems, n=1, cutoff=0.8)]
    hint = f'; did you mean {close[0]}?' if close else ''
    raise InputError(f'{name}: no such config file{hint}')


def config_names() -> list[str]:
    """Sorted names of all runnable configs that come with dinor1."""
    files = (path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py'))
    return sorted(path.with_suffix('').as_posix() for path in files if path.parts[0] not in ('_base_', 'studies'))
