"""The one exception that is meant for the person who typed the command."""


class UsageError(ValueError):
    """What was asked for cannot be done.

    The message is one sentence that quotes what was given and what is allowed; a launcher prints
    it without a traceback and exits with a non-zero code.
    """
