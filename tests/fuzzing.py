"""What the tests with random input share: their settings, and damage to the bytes of a file."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = "FUZZ_FACTOR"  # environment variable of tests/campaigns/fuzz.py: new examples, and how many times more


def fuzz(examples: int) -> settings:
    """Settings under which every run has the same examples, or new ones in a campaign."""
    factor = int(os.environ.get(FACTOR, 0))
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples * (factor or 1),
        derandomize=not factor,
        deadline=None,
        database=None,
        suppress_health_check=slow,
    )


KINDS = ("flip", "set", "cut", "drop", "insert", "repeat", "swap")
HARM = st.tuples(
    st.sampled_from(KINDS),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
    st.integers(1, 64),
    st.binary(min_size=1, max_size=12),
)


def harmed(data: bytes, harms: list[tuple]) -> bytes:
    """The bytes after each damage of HARM in turn."""
    for kind, where, byte, count, fill in harms:
        at = int(where * len(data))
        head, tail = data[:at], data[at:]
        data = {
            "flip": head + bytes(b ^ 1 << byte % 8 for b in tail[:1]) + tail[1:],
            "set": head + bytes([byte]) + tail[1:],
            "cut": head,
            "drop": head + tail[count:],
            "insert": head + fill + tail,
            "repeat": head + tail[:count] + tail,
            "swap": head + tail[count : 2 * count] + tail[:count] + tail[2 * count :],
        }[kind]
    return data
