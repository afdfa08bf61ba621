"""The order of the clips in a run."""

from functools import lru_cache

import numpy as np


class EpochOrder:
    """Clips of every step: each clip once per epoch, in an order drawn anew for each epoch.

    It is a function of the seed and the step's number, so a resumed run continues in the same order.

    Args:
        clips: number of clips.
        batch: clips per step; the last step of an epoch may reach into the next.
    """

    def __init__(self, seed: int, clips: int, batch: int):
        self._seed, self._clips, self._batch = seed, clips, batch
        self._permutation = lru_cache(maxsize=2)(self._permute)  # drawn once per epoch; a step may need two

    def __call__(self, step: int) -> np.ndarray:
        """(batch,) clip numbers of step `step`, from 0."""
        places = np.arange(step * self._batch, (step + 1) * self._batch)
        return np.array([self._permutation(int(place // self._clips))[place % self._clips] for place in places])

    def _permute(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(self._clips)
