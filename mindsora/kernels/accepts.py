"""The inputs that an implementation of an operator accepts. Every operator's `accepts.py` lists its implementations."""

from collections.abc import Callable

import mindspore as ms

SINGLE = (ms.float32,)
HALVES = (ms.float16, ms.bfloat16)
NO_BFLOAT16 = (ms.float32, ms.float16)


class Accepts:
    """The inputs that an implementation accepts.

    Args:
        fits: maps the facts that the operator passes (shapes, flags) to the rule that they break, or None. None accepts
            every shape.
        dtypes: input name -> legal dtypes; an input without an entry may have any dtype.
    """

    def __init__(self, fits: Callable[..., str | None] | None = None, **dtypes: tuple):
        self.fits = fits
        self.dtypes = dtypes

    def refusal(self, dtypes: dict, facts: dict) -> str | None:
        """Return why the implementation refuses inputs of these dtypes and facts (empty: unchecked), or None."""
        for name, legal in self.dtypes.items():
            if name in dtypes and dtypes[name] not in legal:
                return f"{name} is {_word(dtypes[name])}; it takes {' or '.join(map(_word, legal))}"
        return self.fits(**facts) if self.fits and facts else None


def _word(dtype) -> str:
    return str(dtype).lower()
