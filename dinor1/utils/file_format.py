"""Check the format version of weights, which torch saves per module (``nn.Module._version``)."""

from collections.abc import Mapping
from typing import Any

from dinor1.utils.errors import InputError


def check_format(local_metadata: Mapping[str, Any], known: int) -> None:
    """Reject weights with a format that is too new.

    Args:
        local_metadata: Argument of ``_load_from_state_dict``; without a version, the format is 1.
        known: The latest format that can be read.

    Raises:
        InputError: the format is later than ``known``.
    """
    version = local_metadata.get('version') or 1
    if version > known:
        raise InputError(
            f'the checkpoint has format {version}, and this version of dinor1 reads formats up to {known}; install a '
            'newer dinor1'
        )
