"""The length-grouped order: every batch has clips of one bucket, and every rank its own."""

import random
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

UPSTREAM_SEED = 42


class GroupedOrder:
    """Clips of every step of one rank, from one bucket.

    An epoch uses every clip once. The last steps of a bucket are filled up with other clips of it, the same on all
    ranks. All is a function of the seed and the step's number, so a resumed run goes on in the same order. Where all
    buckets divide into global batches, epoch 0 is upstream's with the same seed, number by number.

    Args:
        buckets: of every clip.
        batch: clips per step and rank.
        world, rank: ranks that share the data, and which of them this is.
        upstream_compat: upstream's order in all cases. There a global batch with several buckets keeps the most frequent
            one for each rank and repeats its clips in place of the others, which the epoch then lacks.
    """

    def __init__(
        self,
        buckets: Sequence[str],
        batch: int,
        world: int = 1,
        rank: int = 0,
        seed: int = UPSTREAM_SEED,
        upstream_compat: bool = False,
    ):
        self._buckets, self._batch, self._world, self._rank = buckets, batch, world, rank
        self._seed, self._upstream = seed, upstream_compat
        self._groups = grouped(buckets)
        self._epoch = lru_cache(maxsize=2)(self._draw)  # drawn once per epoch
        lengths = [len(buckets)] if upstream_compat else list(map(len, self._groups))
        self.steps_per_epoch = sum(-(-length // (batch * world)) for length in lengths)

    def __call__(self, step: int) -> np.ndarray:
        """(batch,) clip numbers of step `step`, from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place][self._rank]

    def _draw(self, epoch: int) -> np.ndarray:
        """(steps, world, batch) clip numbers of an epoch."""
        generator = TorchGenerator(self._seed + epoch)
        groups = [group[generator.permutation(len(group))] for group in self._groups]
        rng = random.Random(self._seed + epoch)
        if self._upstream:
            return upstream_batches(np.concatenate(groups), self._buckets, self._batch, self._world, generator, rng)
        size = self._batch * self._world
        batches = np.concatenate([_filled_up(group, size, rng).reshape(-1, size) for group in groups])
        batches = batches[generator.permutation(len(batches))]
        return batches.reshape(-1, self._batch, self._world).swapaxes(1, 2)


def grouped(buckets: Sequence[str]) -> list[np.ndarray]:
    """The clip numbers of each bucket, the largest bucket first, ties in order of first appearance."""
    counts = Counter(buckets)
    places: dict[str, list[int]] = {bucket: [] for bucket, _ in counts.most_common()}
    for index, bucket in enumerate(buckets):
        places[bucket].append(index)
    return [np.array(group, np.int64) for group in places.values()]


def _filled_up(group: np.ndarray, size: int, rng: random.Random) -> np.ndarray:
    """The group, its last batch filled up with clips that the batch lacks, or repeated where the group is that small."""
    missing = -len(group) % size
    others = list(group[: len(group) // size * size]) or list(group)
    fill = rng.sample(others, missing) if missing <= len(others) else rng.choices(others, k=missing)
    return np.concatenate([group, np.array(fill, np.int64)])


def upstream_batches(
    order: np.ndarray, buckets: Sequence[str], batch: int, world: int, generator: "TorchGenerator", rng: random.Random
) -> np.ndarray:
    """(steps, world, batch) clip numbers, by upstream's rules for short and for mixed batches.

    Args:
        order: all clip numbers, shuffled inside their buckets.
        rng: upstream uses Python's own generator here, whose state may differ between ranks.
    """
    size = batch * world
    parts = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    steps = [_chunks(part, batch, world, rng) for part in parts]
    steps = [steps[i] for i in generator.permutation(len(steps))]
    return np.array([[_of_one_bucket(chunk, buckets, rng) for chunk in chunks] for chunks in steps])


def _chunks(part: list[int], batch: int, world: int, rng: random.Random) -> list[list[int]]:
    """Every world-th clip for each rank; short chunks are filled up, empty ones copy another."""
    chunks = [part[rank::world] for rank in range(world)]
    for i, chunk in enumerate(chunks):
        if not chunk:
            chunks[i] = list(rng.choice(chunks[:i]))
        elif len(chunk) < batch:
            chunks[i] = chunk + [rng.choice(chunk) for _ in range(batch - len(chunk))]
    return chunks


def _of_one_bucket(chunk: list[int], buckets: Sequence[str], rng: random.Random) -> list[int]:
    """Keep the most frequent bucket (of several, the one seen last) and repeat its clips in place of the others."""
    counts = Counter(buckets[index] for index in chunk)
    most = max(counts.values())
    major = [bucket for bucket, count in counts.items() if count == most][-1]
    kept = [index for index in chunk if buckets[index] == major]
    return kept + [rng.choice(kept) for _ in range(len(chunk) - len(kept))]


class TorchGenerator:
    """PyTorch's CPU generator, as far as `torch.randperm` needs it: a Mersenne Twister with the same seeding."""

    def __init__(self, seed: int):
        self._bits = np.random.RandomState(seed % 2**32)._bit_generator

    def permutation(self, count: int) -> np.ndarray:
        """`torch.randperm(count)`: swap each place with one at or behind it."""
        behind = self._bits.random_raw(max(count - 1, 0)) % np.arange(count, 1, -1, dtype=np.uint64)
        order = list(range(count))
        for place, jump in enumerate(behind.tolist()):
            order[place], order[place + jump] = order[place + jump], order[place]
        return np.array(order, np.int64)
