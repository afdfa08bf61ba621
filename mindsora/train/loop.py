"""The loop of all trainings: background batches, one compiled step, log, checkpoint, resume, export."""

import contextlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindsora.errors import InputError
from mindsora.parallel.collectives import ALONE, Group
from mindsora.parallel.launch import highest, leave
from mindsora.train.checkpoint import Identity, Position, States, check_equal
from mindsora.train.folder import check_writable, locked
from mindsora.train.log import Log
from mindsora.train.recipe import OptimizerConfig, RunConfig

Batch = tuple[np.ndarray, ...]
Batches = Callable[[range], Iterable[tuple[int, Batch]]]  # numbers of batches -> (number, batch), in that order


def mean_losses(loss: nn.Cell, batches: Mapping[str, Sequence[Batch]]) -> Callable[[], dict[str, float]]:
    """A `Task.validation`: the mean loss of each named list of batches, with the weights of the training."""
    forward = ms.jit(loss)

    def mean(group: Sequence[Batch]) -> float:
        return float(np.mean([forward(*map(Tensor, batch))[0].asnumpy() for batch in group]))

    return lambda: {name: mean(group) for name, group in batches.items()}


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


def train(
    task: Task,
    optimizer: OptimizerConfig,
    run: RunConfig,
    identity: Identity,
    reshuffle: bool = False,
    world: Group = ALONE,
) -> Step:
    """Train to the last step, resuming the run in `run.out`, and export. Returns the step with its final state.

    Every batch is a function of its number, so a resumed run sees the same batches as an unbroken run and ends with
    the same parameters, bit for bit. Of several ranks each takes every `world.size`-th batch, and the first one writes.

    Args:
        identity: of the recipe; a state with another identity is refused.
        reshuffle: resume a run of another batch, accumulation or number of ranks all the same.
        world: the ranks; each calls this function.

    Raises:
        InputError: a folder cannot be written, another process trains there, its state does not fit, or the trained
            weights are not finite.
        SystemExit: after SIGTERM or SIGINT; the state has been saved.
    """
    out, export = Path(run.out), Path(run.export)
    check_writable("run.export", export)
    first = world.rank == 0
    states = States(out, identity, run.keep, run.keep_every, writes=first)
    with locked(out) if first else contextlib.nullcontext(), states:
        start = states.resume(task.step.get_parameters(), run.steps, reshuffle)
        check_equal(task.step.get_parameters(), start, world)
        averages = task.step.averages()
        weights = sum(values.size for values in averages.values())
        print(f"{weights / 1e6:.2f} M weights; steps {start.step} to {run.steps}", flush=True)
        if start.step < run.steps:
            with Log(out, start.step, run.tensorboard, writes=first) as log:
                _run(task, start, identity.batch * identity.ranks, optimizer, run, states, log, world)
            averages = task.step.averages()
        states.wait()
        check_finite(averages)
        if first:
            try:
                task.export(averages)
            except OSError as error:
                reason = error.strerror or error
                raise InputError(f"run.export = {run.export}: {reason}; the same command exports again") from error
    leave(world)
    return task.step


def _run(
    task: Task,
    start: Position,
    samples: int,
    optimizer: OptimizerConfig,
    run: RunConfig,
    states: States,
    log: Log,
    world: Group,
) -> None:
    """Run from a position to the end; write a log row and a state at the recipe's intervals and at the end.

    samples: of a batch, over all ranks.
    """
    step, each = task.step, task.step.accumulate
    first = start.samples // samples  # number of the next batch
    end = first + (run.steps - start.step) * each
    batches = in_turn(task.batches, world)(range(first * world.size + world.rank, end * world.size, world.size))
    meter = Meter(step.compiled(), world.size)
    with stop_requests() as stop, Prefetch(batches) as prefetched:
        groups = iter(grouped(prefetched, each))
        for done in range(start.step + 1, run.steps + 1):
            lr, last = optimizer.lr_at(done - 1, run.steps), done == run.steps
            metrics = meter.update(done - 1, lr, meter.next(groups))
            # Once: a signal may come between the two places that ask. Every rank stops behind the same step.
            stopping = highest(stop[0] if stop else 0, world)
            if done % run.save_every == 0 or last or stopping:
                position = Position(done, (first + (done - start.step) * each) * samples)
                states.save(step.get_parameters(), position)
                if stopping:
                    states.wait()  # before anything is printed: after a SIGHUP the terminal is gone
            if done % run.log_every == 0 or last:
                values = dict(zip(step.metrics, metrics.asnumpy().tolist()))  # waits for the step
                log.row({"step": done, "lr": lr, **values, **meter.read()})
            if task.validation is not None and run.validate_every and (done % run.validate_every == 0 or last):
                log.row({"step": done} | {f"validation/{k}": v for k, v in task.validation().items()})
                meter.restart()
            if task.sample is not None and run.sample_every and (done % run.sample_every == 0 or last):
                averages = step.averages()
                if world.rank == 0:
                    task.sample(averages, done)
                meter.restart()
            if stopping and not last:
                print(f"stopped after step {done}; the same command goes on from there", flush=True)
                leave(world)
                sys.exit(128 + stopping)


def in_turn(batches: Callable[[], Batches], world: Group) -> Batches:
    """Prepare the batches on the first rank and then on the others, which read the caches that it fills."""
    ours = batches() if world.rank == 0 else None
    highest(0, world)
    return batches() if ours is None else ours


class Meter:
    """Runs updates, says when a batch shape is compiled, and measures samples/s and the share of time without input.

    Compilations are not part of the measured time.

    Args:
        ranks: that run updates of as many samples.
    """

    def __init__(self, update: Callable[[int, Tensor, Sequence[tuple[Tensor, ...]]], Tensor], ranks: int = 1):
        self._update, self._ranks = update, ranks
        self._shapes: set = set()
        self.restart()

    def restart(self) -> None:
        self._since, self._waited, self._samples = time.perf_counter(), 0.0, 0

    def next(self, groups: Iterator[list[Batch]]) -> list[Batch]:
        """The next batches of a step."""
        before = time.perf_counter()
        group = next(groups)
        self._waited += time.perf_counter() - before
        return group

    def update(self, number: int, lr: float, group: list[Batch]) -> Tensor:
        """One step; a batch of a new shape compiles here."""
        # The last batch of a step has a graph of its own, which also updates.
        shapes = {(tuple(a.shape for a in batch), i == len(group) - 1) for i, batch in enumerate(group)}
        before = time.perf_counter()
        metrics = self._update(number, Tensor(lr, ms.float32), [tuple(map(Tensor, batch)) for batch in group])
        self._samples += sum(len(batch[0]) for batch in group)
        for shape, last in shapes - self._shapes:
            metrics.asnumpy()  # waits
            self._shapes.add((shape, last))
            sizes = "x".join(map(str, shape[0]))
            seconds = time.perf_counter() - before
            print(f"batch {sizes}: compiled and run in {seconds:.0f} s; {len(self._shapes)} graphs so far", flush=True)
            self.restart()
        return metrics

    def read(self) -> dict[str, float | None]:
        """samples_per_second, input_wait (share of the time since the last reading), compiled (graphs so far)."""
        elapsed = time.perf_counter() - self._since
        known = self._samples > 0
        speed = self._ranks * self._samples / elapsed if known else None
        share = self._waited / elapsed if known else None
        self.restart()
        return {"samples_per_second": speed, "input_wait": share, "compiled": len(self._shapes)}


def grouped(batches: Iterable[tuple[int, Batch]], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` consecutive batches."""
    group = []
    for _, batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


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
