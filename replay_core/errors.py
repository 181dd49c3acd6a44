"""The exceptions of this package: one for who typed the command, one for what a sample did."""


class UsageError(ValueError):
    """What was asked for cannot be done.

    The message is one sentence that quotes what was given and what is allowed; a launcher prints
    it without a traceback and exits with a non-zero code.
    """


class ReplayError(RuntimeError):
    """A sample's loop went wrong, and ``strict`` asked to hear of it."""
