"""The loop of all trainings: background batches, one compiled step, log, checkpoint, resume, export."""

import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindsora.errors import InputError
from mindsora.train.checkpoint import States
from mindsora.train.folder import check_writable, locked
from mindsora.train.recipe import OptimizerConfig, RunConfig

LOG = "log.jsonl"

Batch = tuple[np.ndarray, ...]
Batches = Callable[[range], Iterable[tuple[int, Batch]]]  # numbers of batches -> (number, batch), in that order


class Step(Protocol):
    """One update of the weights; `mindsora.train.optimizer.TrainStep` is the step of a single network.

    Attributes:
        metrics: names of the values that an update returns.
        accumulate: batches per update.
    """

    metrics: tuple[str, ...]
    accumulate: int

    def compiled(self) -> Callable[[int, Tensor, Sequence[tuple[Tensor, ...]]], Tensor]:
        """(number of the step from 0, learning rate (), `accumulate` batches) -> metrics (N,) float32."""

    def get_parameters(self) -> Iterable[Parameter]:
        """Everything that a state holds: weights, moments, averages, counters."""

    def averages(self) -> dict[str, np.ndarray]:
        """The weights to export, by name."""


class Task(NamedTuple):
    """What a training method gives the loop.

    Attributes:
        step: updates the weights.
        batches: () -> the function from a range of batch numbers to these batches, each a function of its number and
            the seed. Step k takes the batches from k * step.accumulate on. Shapes may differ between batches; each
            shape compiles once. The loop calls `batches` last: it may encode for minutes, and errors in the recipe or
            the folder should show before that.
        export: writes the averaged weights, by name, to the folder `run.export`.
        validation: () -> name -> value, on a fixed set; logged every `run.validate_every` steps.
        sample: (averaged weights, number of steps done) writes clips every `run.sample_every` steps.
    """

    step: Step
    batches: Callable[[], Batches]
    export: Callable[[dict[str, np.ndarray]], None]
    validation: Callable[[], Mapping[str, float]] | None = None
    sample: Callable[[dict[str, np.ndarray], int], None] | None = None


def numbered(batch: Callable[[int], Batch]) -> Batches:
    """Batches of a function from a batch's number to the batch."""
    return lambda numbers: ((number, batch(number)) for number in numbers)


def train(task: Task, optimizer: OptimizerConfig, run: RunConfig, identity: str) -> Step:
    """Train to the last step, resuming the run in `run.out`, and export. Returns the step with its final state.

    Every batch is a function of its number, so a resumed run sees the same batches as an unbroken run and ends with
    the same parameters, bit for bit.

    Args:
        identity: of the recipe; a state with another identity is refused.

    Raises:
        InputError: a folder cannot be written, another process trains there, its state does not fit, or the trained
            weights are not finite.
        SystemExit: after SIGTERM or SIGINT; the state has been saved.
    """
    out, export = Path(run.out), Path(run.export)
    check_writable("run.export", export)
    with locked(out):
        states = States(out, identity)
        start = states.resume(task.step, run.steps)
        averages = task.step.averages()
        weights = sum(values.size for values in averages.values())
        print(f"{weights / 1e6:.2f} M weights; steps {start} to {run.steps}", flush=True)
        if start < run.steps:
            with open_log(out) as log:
                _run(task, task.batches(), range(start, run.steps), optimizer, run, states, log)
            averages = task.step.averages()
        check_finite(averages)
        try:
            task.export(averages)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"run.export = {run.export}: {reason}; the same command exports again") from error
    return task.step


def _run(
    task: Task,
    batches: Batches,
    steps: range,
    optimizer: OptimizerConfig,
    run: RunConfig,
    states: States,
    log: TextIO,
) -> None:
    """Run a range of steps; write a log row and a state at the recipe's intervals and at the end."""
    step, each = task.step, task.step.accumulate
    update, since, counted = step.compiled(), None, 0
    numbers = range(steps.start * each, steps.stop * each)
    with stop_requests() as stop, Prefetch(batches(numbers)) as prefetched:
        for number, group in zip(steps, grouped(prefetched, each)):
            lr = optimizer.lr_at(number, run.steps)
            metrics = update(number, Tensor(lr, ms.float32), [tuple(map(Tensor, batch)) for batch in group])
            done = number + 1
            counted += sum(len(batch[0]) for batch in group)
            if since is None:  # compiled by now
                metrics.asnumpy()
                since, counted = time.perf_counter(), 0
            last, stopping = done == run.steps, bool(stop)  # once: a signal may come between the two places that ask
            if done % run.save_every == 0 or last or stopping:
                states.save(step, done)  # before anything is printed: after a SIGHUP the terminal is gone
            if done % run.log_every == 0 or last:
                values = dict(zip(step.metrics, metrics.asnumpy().tolist()))  # waits for the step
                speed = counted / (time.perf_counter() - since) if counted else None
                write_row(log, {"step": done, "lr": lr, **values, "samples_per_second": speed})
                since, counted = time.perf_counter(), 0
            if task.validation is not None and run.validate_every and (done % run.validate_every == 0 or last):
                write_row(log, {"step": done} | {f"validation/{k}": v for k, v in task.validation().items()})
            if task.sample is not None and run.sample_every and (done % run.sample_every == 0 or last):
                task.sample(step.averages(), done)
            if stopping and not last:
                print(f"stopped after step {done}; the same command goes on from there", flush=True)
                sys.exit(128 + stop[0])


def grouped(batches: Iterable[tuple[int, Batch]], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` consecutive batches."""
    group = []
    for _, batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


def open_log(out: Path) -> TextIO:
    """Open the log of a run for appending."""
    try:
        return open(out / LOG, "a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"run.out = {out}: {LOG}: {error.strerror}; choose a folder that can be written") from error


def write_row(log: TextIO, row: dict) -> None:
    """Print the metrics of a step and append them to the log."""
    print("  ".join(f"{k} {v:.4g}" for k, v in row.items() if v is not None), flush=True)
    try:
        log.write(json.dumps(row) + "\n")
        log.flush()
    except OSError as error:
        raise InputError(f"{log.name}: {error.strerror}; make room, then give the same command again") from error


def check_finite(weights: dict[str, np.ndarray]) -> None:
    """Raise InputError if a weight is NaN, infinite or outside float16, the dtype of the export."""
    limit = np.finfo(np.float16).max
    bad = [name for name, values in weights.items() if not (np.abs(values) <= limit).all()]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(weights)} trained weights are not finite or beyond {limit}, {bad[0]!r} first: nothing is "
            "exported; train again into another run.out with a lower optimizer.lr"
        )


class Prefetch:
    """Iterate over an iterable that a thread reads a few items ahead; its errors are raised here."""

    def __init__(self, items: Iterable, ahead: int = 3):
        self._queue, self._closed = queue.Queue(ahead), threading.Event()
        self._thread = threading.Thread(target=self._work, args=(items,), daemon=True)

    def _work(self, items: Iterable) -> None:
        try:
            for item in items:
                self._put(item)
                if self._closed.is_set():
                    return
            self._put(None)
        except BaseException as error:  # raised again in the loop
            self._put(error)

    def _put(self, item) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closed.set()
        self._thread.join()

    def __iter__(self):
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The signals INT, TERM and HUP that have come, so that the loop can save and exit. A second one kills as usual."""
    received, before = [], {}

    def note(number, frame):
        received.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():  # Python sets signal handlers only there
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        wanted = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
