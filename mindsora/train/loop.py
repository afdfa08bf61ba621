"""The loop both trainings share: batches in the background, one compiled step, log, checkpoint, resume."""

import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindsora.errors import InputError
from mindsora.train.checkpoint import load_state, save_state
from mindsora.train.optimizer import METRICS, TrainStep
from mindsora.train.recipe import fingerprint

STATE = "state.safetensors"
LOG = "log.jsonl"
INTERRUPTED = 143  # exit status after SIGTERM: 128 + 15


def train(recipe, loss: nn.Cell, parts: tuple[str, ...], batch: Callable[[int], tuple[np.ndarray, ...]]) -> TrainStep:
    """Run a recipe to its last step, resuming what its folder holds. Returns the step with its final state.

    Every batch is a function of the step's number, so a resumed run sees what an unbroken one sees, and its
    parameters are the same to the bit.

    Args:
        recipe: one of `mindsora.train.recipe.RECIPES`.
        loss: Cell mapping a batch to (loss, parts).
        parts: names of the parts, for the log.
        batch: number of a step (from 0) -> its arrays.

    Raises:
        InputError: the checkpoint does not fit the recipe, or the folder cannot be written.
        SystemExit: after SIGTERM or SIGINT; the state has been saved.
    """
    run, out = recipe.run, Path(recipe.run.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        log = open(out / LOG, "a", encoding="utf-8")  # noqa: SIM115  closed by the loop below
    except OSError as error:
        raise InputError(f"run.out = {run.out}: {error.strerror}; choose a folder that can be written") from error
    state, path, recipe_id = TrainStep(loss, recipe.optimizer), out / STATE, fingerprint(recipe)
    start = load_state(path, state, recipe_id)["step"] if path.exists() else 0
    print(f"{sum(w.size for w in state.ema.weights) / 1e6:.2f} M weights; steps {start} to {run.steps}", flush=True)

    def save(done: int) -> None:
        save_state(path, state, {"recipe": recipe_id, "step": done, "samples": done * recipe.data.batch})

    compiled, since, counted = ms.jit(state), None, start
    with log, stop_requests() as stop, Prefetch(batch, start, run.steps) as batches:
        for step, arrays in batches:
            lr = recipe.optimizer.lr_at(step, run.steps)
            metrics = compiled(Tensor(lr, ms.float32), *map(Tensor, arrays))
            done = step + 1
            if since is None:  # compiled by now
                metrics.asnumpy()
                since, counted = time.perf_counter(), done
            if done % run.log_every == 0 or done == run.steps:
                values = dict(zip(METRICS + parts, metrics.asnumpy().tolist()))  # waits for the step
                elapsed = time.perf_counter() - since
                speed = (done - counted) * recipe.data.batch / elapsed if done > counted else None
                skipped = int(state.clip.skipped.asnumpy())
                row = {"step": done, "lr": lr, **values, "samples_per_second": speed, "skipped": skipped}
                print("  ".join(f"{k} {v:.4g}" for k, v in row.items() if v is not None), flush=True)
                log.write(json.dumps(row) + "\n")
                log.flush()
                since, counted = time.perf_counter(), done
            if done % run.save_every == 0 or done == run.steps or stop.is_set():
                save(done)
            if stop.is_set() and done < run.steps:
                print(f"stopped after step {done}; the same command goes on from there", flush=True)
                sys.exit(INTERRUPTED)
    return state


class Prefetch:
    """Iterate over (step, batch(step)), prepared by a thread a few steps ahead; its errors are raised here."""

    def __init__(self, batch: Callable, start: int, stop: int, ahead: int = 3):
        self._queue, self._closed = queue.Queue(ahead), threading.Event()
        self._thread = threading.Thread(target=self._work, args=(batch, range(start, stop)), daemon=True)

    def _work(self, batch: Callable, steps: range) -> None:
        try:
            for step in steps:
                self._put((step, batch(step)))
                if self._closed.is_set():
                    return
            self._put(None)
        except BaseException as error:  # handed over to the loop
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
    """An Event that SIGTERM and SIGINT set, so that the loop can save and leave. A second one kills as usual."""
    event, before = threading.Event(), {}

    def note(number, frame):
        event.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
