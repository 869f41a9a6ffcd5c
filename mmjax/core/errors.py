"""The one exception for mistakes that a user can correct."""


class UserError(ValueError):
    """A mistake in a config, a path, a checkpoint or a data set.

    The message names the thing, the place and what would be valid; the command line prints it alone, without a
    traceback, and exits with code 2.
    """
