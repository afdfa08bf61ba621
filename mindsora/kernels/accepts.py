"""What an implementation of an operator takes. Every operator's `accepts.py` lists its implementations with it."""

from collections.abc import Callable

import mindspore as ms

SINGLE = (ms.float32,)
HALVES = (ms.float16, ms.bfloat16)
NO_BFLOAT16 = (ms.float32, ms.float16)


class Accepts:
    """The inputs that an implementation takes.

    Args:
        fits: from what the operator says of its inputs (shapes, flags), the rule that they break, or None; without it
            every shape is taken.
        dtypes: input's name -> its dtypes; an input that is not named may have any.
    """

    def __init__(self, fits: Callable[..., str | None] | None = None, **dtypes: tuple):
        self.fits = fits
        self.dtypes = dtypes

    def refusal(self, dtypes: dict, facts: dict) -> str | None:
        """Why it does not take inputs of these dtypes, and with these facts where there are any; None where it does."""
        for name, legal in self.dtypes.items():
            if name in dtypes and dtypes[name] not in legal:
                return f"{name} is {_word(dtypes[name])}; it takes {' or '.join(map(_word, legal))}"
        return self.fits(**facts) if self.fits and facts else None


def _word(dtype) -> str:
    return str(dtype).lower()
