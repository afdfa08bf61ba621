"""Call one pipeline very often, and with prompts of every length: memory stays where it is.

    python tests/campaigns/soak.py [--rounds N]

The growth is the slope of the resident memory over the second half of the calls, in MiB a call.
"""

import os
from pathlib import Path

import harness
import numpy as np

from mindsora import TextToVideoPipeline
from mindsora.runtime import Runtime, return_freed_memory

LIMIT = 0.2  # MiB a call: a tensor of a clip that is kept is larger


def resident() -> float:
    """MiB of this process, without what the C library keeps."""
    return_freed_memory()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(calls: int, call) -> dict:
    """Call `call(number)` so often; the growth in MiB a call."""
    sizes = []
    for number in range(calls):
        call(number)
        sizes.append(resident())
    half = sizes[calls // 2 :]
    growth = float(np.polyfit(range(len(half)), half, 1)[0]) if len(half) > 1 else 0.0
    assert growth < LIMIT, sizes
    return {"calls": calls, "mib_a_call": round(growth, 4), "resident_mib": round(sizes[-1])}


def loaded():
    Runtime(device="CPU").apply()
    pipe = TextToVideoPipeline.from_pretrained("nano")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate_calls(folder: Path, rounds: int) -> dict:
    pipe = loaded()
    return soak(rounds, lambda seed: pipe("a red circle", num_frames=1, num_inference_steps=2, seed=seed))


def prompt_lengths(folder: Path, rounds: int) -> dict:
    pipe = loaded()
    words = "a red circle moves right on a black background".split() * (rounds // 10 + 1)
    return soak(rounds, lambda n: pipe(" ".join(words[: n + 1]), num_frames=1, num_inference_steps=1, seed=0))


PARTS = {generate_calls: 150, prompt_lengths: 300}

if __name__ == "__main__":
    harness.main("soak", __doc__, PARTS)
