"""Check of the seeds of random draws."""

from dinor1.utils.errors import InputError


def non_negative(seed: int) -> int:
    """The seed of a draw.

    Raises:
        InputError: the seed is not an integer of at least 0, which NumPy's generators need.
    """
    if type(seed) is not int or seed < 0:
        raise InputError(f'the seed of a draw must be an integer of at least 0, got {seed!r}')
    return seed
