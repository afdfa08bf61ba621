"""Batches of real clips for the steps of a training."""

import random
from collections.abc import Iterator

import numpy as np

from mindsora.data.clips import ClipSet
from mindsora.data.collate import box_of, collate
from mindsora.data.settings import ClipBatch, Order
from mindsora.errors import InputError

TRIES = 10  # other clips of the bucket that are tried in place of one that cannot be read


def load(clips: ClipSet, order: Order, steps: range, workers: int, seed: int = 0) -> Iterator[tuple[int, ClipBatch]]:
    """Yield (step, batch) for a range of steps.

    What a step sees depends on the seed, the step's number and the place in the batch alone.

    Args:
        order: the step's clip numbers.
        workers: processes that decode.

    Raises:
        InputError: a clip and TRIES others of its bucket cannot be read.
    """
    box = box_of(clips.buckets, clips.data)
    same_bucket = _same_bucket(clips)
    for step in steps:
        samples = [sample(clips, same_bucket, int(index), (seed, step, i)) for i, index in enumerate(order(step))]
        yield step, _batch(clips, samples, box, seed, step)


def generator(*key: int | str) -> random.Random:
    """The random generator of one sample: a function of (seed, step, position, purpose)."""
    return random.Random("/".join(map(str, key)))


def sample(
    clips: ClipSet, same_bucket: dict[str, np.ndarray], index: int, key: tuple[int, int, int]
) -> tuple[np.ndarray, int, list[str]]:
    """The video of one sample, the number of its clip, and the messages of clips that could not be read before it."""
    rng, failures = generator(*key, "video"), []
    bucket = clips.bucket(index)
    for _ in range(1 + TRIES):
        try:
            return clips.video(index, rng), index, failures
        except InputError as error:
            failures.append(str(error))
            index = int(rng.choice(same_bucket[bucket]))
    raise InputError(f"{1 + TRIES} clips of bucket {bucket} cannot be read, one after the other; {failures[0]}")


def _same_bucket(clips: ClipSet) -> dict[str, np.ndarray]:
    buckets = np.array(clips.buckets)
    return {bucket: np.flatnonzero(buckets == bucket) for bucket in clips.counts()}


def _batch(clips: ClipSet, samples: list[tuple], box: tuple | None, seed: int, step: int) -> ClipBatch:
    video, mask = collate([video for video, _, _ in samples], clips.data.stride, box)
    captions = [clips.caption(i, generator(seed, step, place, "caption")) for place, (_, i, _) in enumerate(samples)]
    failures = tuple(message for _, _, messages in samples for message in messages)
    return ClipBatch(
        video, captions, None if mask.all() else mask, np.array([index for _, index, _ in samples]), failures
    )
