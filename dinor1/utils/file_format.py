"""Format versions of weights, which torch saves per module (``nn.Module._version``)."""

from collections.abc import Mapping
from typing import Any

from dinor1.utils.errors import InputError


def check_format(local_metadata: Mapping[str, Any], known: int) -> None:
    """Refuse weights of a later format.

    Args:
        local_metadata: What ``_load_from_state_dict`` gets; without a version it is format 1.
        known: The latest format that can be read.

    Raises:
        InputError: the format is a later one.
    """
    version = local_metadata.get('version') or 1
    if version > known:
        raise InputError(
            f'the checkpoint has format {version}, and this version of dinor1 knows formats up to {known}; install a '
            'newer dinor1'
        )
