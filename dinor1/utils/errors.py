"""The exception for user errors."""


class InputError(ValueError):
    """A user error: a file, a box, a config key, a checkpoint or another input is invalid.

    The message is a single line that states what is wrong, where, and what to do. The command-line tools print it
    without a traceback and exit with status 2.
    """
