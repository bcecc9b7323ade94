"""Integer grids: largest code and default number of channel groups for each number of bits.

W. Guo, D. Liu et al., "Towards Accurate and Efficient Sub-8-Bit Integer Training", arXiv 2411.10948. The paper's
number of groups is unknown; with the default here shifted codes fit a signed byte.
"""

from dinor1.utils.errors import InputError

FLOAT_BITS = 32
MAX_GROUPS = 16
_DEFAULT_GROUPS = {6: 3, 7: 2, 8: 1}


def top_code(bits: int) -> int:
    """Largest code of a symmetric grid: 7 for 4 bits, 127 for 8. The code ``-top_code - 1`` is not used."""
    return 2 ** (bits - 1) - 1


def default_groups(bits: int) -> int:
    """Groups of channels: 4 up to 5 bits, 3 at 6, 2 at 7 and 1 at 8, so that ``code << shift`` fits int8."""
    return _DEFAULT_GROUPS.get(bits, 4)


def is_bits(value: object, floating: bool = False) -> bool:
    """Whether ``value`` is a whole number from 2 to 8, or with ``floating`` also 32."""
    return type(value) is int and (2 <= value <= 8 or (floating and value == FLOAT_BITS))


def check_groups(name: str, groups: int | str | None) -> None:
    """Check a number of groups.

    Raises:
        InputError: ``groups`` is neither None, nor 'channel', nor a whole number from 1 to 16.
    """
    if groups is None or groups == 'channel' or (type(groups) is int and 1 <= groups <= MAX_GROUPS):
        return
    raise InputError(f"{name}: groups must be a whole number from 1 to {MAX_GROUPS}, 'channel' or None, got {groups!r}")
