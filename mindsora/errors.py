"""The one error a user can cause. The command line prints it without a traceback and exits with status 2."""


class InputError(ValueError):
    """Bad input: the message names the value, the rule it breaks and the nearest legal choice."""
