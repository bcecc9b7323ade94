"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something that the user gave is wrong: a file, a box, a config key, a checkpoint.

    The message is a single line that says what is wrong, where, and what to do. The command-line tools print it
    without a traceback and exit with status 2.
    """
