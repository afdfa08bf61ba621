"""Batches of real clips for the steps of a training, decoded in worker processes by MindSpore's own data pipeline."""

import gc
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import psutil

from mindsora.data.clips import ClipSet
from mindsora.data.collate import box_of, collate
from mindsora.data.settings import ClipBatch, Order
from mindsora.errors import InputError

TRIES = 10  # other clips of the bucket that are tried in place of one that cannot be read
SECONDS = 60  # that reading one clip may take
REPORT_SECONDS = 30  # between two lines on the speed

# Decoders of the training process must not be collected in a worker: freeing one there waits for its threads, which a
# fork does not copy, for ever.
os.register_at_fork(after_in_child=gc.freeze)


def load(clips: ClipSet, order: Order, steps: range, workers: int, seed: int = 0) -> Iterator[tuple[int, ClipBatch]]:
    """Yield (step, batch) for a range of steps; print a line on the speed every REPORT_SECONDS.

    What a step sees depends on the seed, the step's number and the place in the batch alone.

    Args:
        order: the step's clip numbers.
        workers: processes that decode; 1 decodes in a thread of this process, which may not end a clip that hangs.

    Raises:
        InputError: a clip and TRIES others of its bucket cannot be read.
    """
    samples = Samples(clips, order, steps, seed)
    box, progress = box_of(clips.buckets, clips.data), _Progress()
    with decoded(samples, workers, samples.batch) as rows:
        for step in steps:
            videos = [_read_row(next(rows)) for _ in range(samples.batch)]
            batch = _collated(clips, videos, box, (seed, step))
            progress.add(step, batch)
            yield step, batch
            progress.resumed()


class Samples:
    """The samples of a range of steps one after the other, as rows."""

    def __init__(self, clips: ClipSet, order: Order, steps: range, seed: int):
        self.clips, self.order, self.steps, self.seed = clips, order, steps, seed
        self.batch = len(order(steps[0])) if steps else 0
        buckets = np.array(clips.buckets)
        self._same_bucket = {bucket: np.flatnonzero(buckets == bucket) for bucket in clips.counts()}

    def __len__(self) -> int:
        return len(self.steps) * self.batch

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        number, position = divmod(int(place), self.batch)
        step = self.steps[number]
        rng = generator(self.seed, step, position, "video")
        return row(*self._read(int(self.order(step)[position]), rng))

    def _read(self, index: int, rng: random.Random) -> tuple[int, list[str], np.ndarray]:
        """The clip, or another one of its bucket where it cannot be read; number -1 where TRIES others cannot either."""
        bucket, failures = self.clips.bucket(index), []
        for _ in range(1 + TRIES):
            try:
                with limited():
                    return index, failures, self.clips.video(index, rng)
            except InputError as error:
                failures.append(str(error))
                index = int(rng.choice(self._same_bucket[bucket]))
        return -1, failures, np.zeros((1, 1, 1, 3), np.float32)


def row(index: int, failures: list[str], video: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row as MindSpore carries it: the messages are JSON."""
    # Eight bytes first: shared memory holds the columns one after the other, unaligned.
    return np.array([index], np.int64), video, np.frombuffer(json.dumps(failures).encode(), np.uint8)


def generator(*key: int | str) -> random.Random:
    """The random numbers of one sample: a function of (seed, step, position, purpose)."""
    return random.Random("/".join(map(str, key)))


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """InputError after so many seconds. Only the main thread of a process, such as a worker, can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise InputError(f"reading took longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def decoded(rows, workers: int, ahead: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    """Rows (index, video, failures) from a `GeneratorDataset`, whose processes end with the context.

    Args:
        rows: has a length, and the row of every number.
        workers: processes; 1 is a thread of this process.
        ahead: rows that may wait.
    """
    import mindspore.dataset as ds

    prefetch = ds.config.get_prefetch_size()
    ds.config.set_prefetch_size(max(2, ahead))  # MindSpore's 16 would hold gigabytes of long clips
    try:
        iterator = ds.GeneratorDataset(
            rows,
            ["index", "video", "failures"],
            num_parallel_workers=workers,
            shuffle=False,
            python_multiprocessing=workers > 1,
        ).create_dict_iterator(num_epochs=1, output_numpy=True)
    finally:
        ds.config.set_prefetch_size(prefetch)
    closed = threading.Event()
    sampler = iterator.dataset.sample_fn  # MindSpore 2.10 has no public name for its processes and their end flag
    watch = threading.Thread(target=_watch, args=(sampler, closed), daemon=True, name="workers")
    if workers > 1:
        watch.start()
    try:
        yield _all_of(iterator, len(rows))
    finally:
        closed.set()
        if workers > 1:
            watch.join()
        iterator.release()


def _watch(sampler, closed: threading.Event) -> None:
    """Set the end flag when the rows are no longer wanted, or when a worker has died.

    MindSpore 2.10 waits for ever for the row of a worker that a signal has killed, also in `release`.
    """
    while not closed.wait(1):
        if any(_has_died(worker.pid) for worker in sampler.workers or ()):
            break
    end = getattr(sampler, "eof", None)  # MindSpore starts the workers from a thread of its own
    if end is not None:
        end.set()


def _has_died(pid: int) -> bool:
    # Not `Process.exitcode`: MindSpore's handler of SIGCHLD may have taken the status.
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _all_of(iterator, count: int) -> Iterator[dict[str, np.ndarray]]:
    read = 0
    for row in iterator:
        yield row
        read += 1
    if read < count:
        raise InputError(
            f"a process that decodes clips has died after {read} of {count} clips, as when memory runs out; "
            "give fewer `workers` or a smaller `batch`"
        )


def unpacked(row: dict[str, np.ndarray]) -> tuple[int, list[str], np.ndarray]:
    """The arguments of `row` from what `decoded` yields."""
    return int(row["index"][0]), json.loads(row["failures"].tobytes()), row["video"]


def _read_row(row: dict[str, np.ndarray]) -> tuple[int, list[str], np.ndarray]:
    index, failures, video = unpacked(row)
    if index < 0:
        raise InputError(
            f"{len(failures)} clips of one bucket cannot be read, one after the other; the first: {failures[0]}; "
            "`mindsora data check` names all"
        )
    return index, failures, video


def _collated(clips: ClipSet, rows: list[tuple], box: tuple | None, key: tuple[int, int]) -> ClipBatch:
    indices, failures, videos = zip(*rows)
    video, mask = collate(videos, clips.data.stride, box)
    captions = [clips.caption(index, generator(*key, place, "caption")) for place, index in enumerate(indices)]
    return ClipBatch(video, captions, None if mask.all() else mask, np.array(indices), tuple(chain(*failures)))


class _Progress:
    """Prints clips per second, the share of the time that training waited for data, and each unreadable file once."""

    def __init__(self):
        self._named, self._unreadable = set(), 0
        self._start()

    def _start(self) -> None:
        self._since = self._asked = time.monotonic()
        self._clips, self._waited = 0, 0.0

    def resumed(self) -> None:
        """Training asks for the next batch."""
        self._asked = time.monotonic()

    def add(self, step: int, batch: ClipBatch) -> None:
        """A batch is ready."""
        now = time.monotonic()
        self._waited += now - self._asked
        self._clips += len(batch.indices)
        self._unreadable += len(batch.failures)
        for message in set(batch.failures) - self._named:
            print(f"data: skipped: {message}", flush=True)
        self._named.update(batch.failures)
        if now - self._since >= REPORT_SECONDS:
            seconds = now - self._since
            print(
                f"data: step {step + 1}  {self._clips / seconds:.3g} clips/s  waited {self._waited / seconds:.0%} of the "
                f"time  {self._unreadable} unreadable",
                flush=True,
            )
            self._start()
