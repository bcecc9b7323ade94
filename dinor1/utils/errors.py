"""The exception for errors of the user."""


class InputError(ValueError):
    """An input of the user is invalid: a file, a box, a config key, a checkpoint.

    The message is a single line that states what is wrong, where, and what to do. The command-line tools print it
    without a traceback and exit with status 2.
    """
