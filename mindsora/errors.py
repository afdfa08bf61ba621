"""The one error a user can cause, and how its message shows what came from outside.

The command line prints the message without a traceback and exits with status 2.
"""

LONGEST = 200  # characters of a foreign value in a message


class InputError(ValueError):
    """Bad input: the message names the value, the rule it breaks and the nearest legal choice."""


def shown(value: object, longest: int = LONGEST, quote: bool = True) -> str:
    """A foreign value (a name, a key, a piece of text) for a message: control characters escaped, long text shortened.

    Args:
        value: anything; its `str` is shown.
        longest: characters that are kept; the middle of a longer text is left out.
        quote: put quotation marks around it.
    """
    text = str(value)
    if len(text) > longest:
        half = (longest - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    # isprintable is false for control characters, line separators, bidirectional marks and lone surrogates.
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return f"'{escaped}'" if quote else escaped
