"""The loop of all trainings: background batches, one compiled step, log, checkpoint, resume, export."""

import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindsora.errors import InputError
from mindsora.train.checkpoint import States, averaged_weights
from mindsora.train.folder import check_writable, locked
from mindsora.train.optimizer import METRICS, TrainStep
from mindsora.train.recipe import OptimizerConfig, RunConfig

LOG = "log.jsonl"
INTERRUPTED = 143  # exit status after SIGTERM: 128 + 15

Batch = tuple[np.ndarray, ...]


class Task(NamedTuple):
    """What a training method gives the loop.

    Attributes:
        loss: Cell that maps a batch to (loss (), parts (N,)).
        parts: names of the parts, for the log.
        batches: () -> the function from a step's number (from 0) to its batch. The loop calls it last: it may encode for
            minutes, and errors in the recipe or the folder should show before that.
        export: writes the averaged weights, by name, to the folder `run.export`.
    """

    loss: nn.Cell
    parts: tuple[str, ...]
    batches: Callable[[], Callable[[int], Batch]]
    export: Callable[[dict[str, np.ndarray]], None]


def train(task: Task, optimizer: OptimizerConfig, run: RunConfig, identity: str) -> TrainStep:
    """Train to the last step, resuming the run in `run.out`, and export. Returns the step with its final state.

    Every batch is a function of the step's number, so a resumed run sees the same batches as an unbroken run and ends
    with the same parameters, bit for bit.

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
        step = TrainStep(task.loss, optimizer)
        states = States(out, identity)
        start = states.resume(step, run.steps)
        weights = sum(w.size for w in step.adamw.weights)
        print(f"{weights / 1e6:.2f} M weights; steps {start} to {run.steps}", flush=True)
        if start < run.steps:
            with open_log(out) as log:
                _run(step, task.parts, task.batches(), range(start, run.steps), optimizer, run, states, log)
        averages = averaged_weights(step)
        check_finite(averages)
        try:
            task.export(averages)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"run.export = {run.export}: {reason}; the same command exports again") from error
    return step


def _run(
    step: TrainStep,
    parts: tuple[str, ...],
    batch: Callable[[int], Batch],
    steps: range,
    optimizer: OptimizerConfig,
    run: RunConfig,
    states: States,
    log: TextIO,
) -> None:
    """Run a range of steps; write a log row and a state at the recipe's intervals and at the end."""
    compiled, since, counted = ms.jit(step), None, steps.start
    with stop_requests() as stop, Prefetch(batch, steps) as batches:
        for number, arrays in batches:
            lr = optimizer.lr_at(number, run.steps)
            metrics = compiled(Tensor(lr, ms.float32), *map(Tensor, arrays))
            done = number + 1
            if since is None:  # compiled by now
                metrics.asnumpy()
                since, counted = time.perf_counter(), done
            if done % run.log_every == 0 or done == run.steps:
                values = dict(zip(METRICS + parts, metrics.asnumpy().tolist()))  # waits for the step
                elapsed = time.perf_counter() - since
                speed = (done - counted) * len(arrays[0]) / elapsed if done > counted else None
                skipped = int(step.clip.skipped.asnumpy())
                write_row(log, {"step": done, "lr": lr, **values, "samples_per_second": speed, "skipped": skipped})
                since, counted = time.perf_counter(), done
            if done % run.save_every == 0 or done == run.steps or stop.is_set():
                states.save(step, done)
            if stop.is_set() and done < run.steps:
                print(f"stopped after step {done}; the same command goes on from there", flush=True)
                sys.exit(INTERRUPTED)


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
    """Iterate over (step, batch(step)). A thread prepares batches a few steps ahead; its errors are raised here."""

    def __init__(self, batch: Callable, steps: range, ahead: int = 3):
        self._queue, self._closed = queue.Queue(ahead), threading.Event()
        self._thread = threading.Thread(target=self._work, args=(batch, steps), daemon=True)

    def _work(self, batch: Callable, steps: range) -> None:
        try:
            for step in steps:
                self._put((step, batch(step)))
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
def stop_requests():
    """An Event that SIGTERM and SIGINT set, so that the loop can save and exit. A second signal kills as usual."""
    event, before = threading.Event(), {}

    def note(number, frame):
        event.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():  # Python sets signal handlers only there
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
