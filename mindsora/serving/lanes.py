"""Threads that hand the jobs of a store to worker processes, one process each, and replace a process that ends.

A job whose process ends or stalls fails alone: the next job gets a new process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from mindsora.serving.store import Job, Store

COMMAND = (sys.executable, "-m", "mindsora.serving.worker")
GRACE = 20  # seconds from a cancellation to the end of the process that does not heed it: it may be compiling
FIRST_REST, LONGEST_REST = 1.0, 60.0  # seconds before a process that could not start is tried again; doubled each time


class Ended(Exception):
    """The process has ended, or was ended because it stalled. The message says how."""


class Process:
    """A worker process and its messages."""

    def __init__(self, command: Sequence[str], settings: dict):
        self.loads = settings["model"], settings["reconstruct"]
        self._messages: SimpleQueue[dict | None] = SimpleQueue()
        self._popen = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in the server's terminal lets the running jobs finish
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._popen.stdout:
            self._messages.put(json.loads(line))
        self._messages.put(None)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, message: dict) -> None:
        """Raises Ended."""
        try:
            print(json.dumps(message), file=self._popen.stdin, flush=True)
        except OSError as error:
            raise Ended(self._how()) from error

    def receive(self, seconds: float) -> dict | None:
        """The next message, or None after so many seconds. Raises Ended."""
        try:
            message = self._messages.get(timeout=seconds)
        except Empty:
            return None
        if message is None:
            raise Ended(self._how())
        return message

    def _how(self) -> str:
        """How the process ended, in words."""
        status = self._popen.wait()
        if status == -signal.SIGKILL:
            return "its process was killed by SIGKILL, as the system does when memory runs out"
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        return f"its process ended with status {status}"

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._popen.stdin.close()
        self._popen.stdout.close()


@dataclass(frozen=True)
class Watch:
    """What lanes report: each is called from a lane's thread.

    Attributes:
        ended: a job has ended.
        replaced: a process had to be replaced; why: "ended", "stalled" or "cancelled".
    """

    ended: Callable[[Job], None] = lambda job: None
    replaced: Callable[[str], None] = lambda why: None


class Lane(threading.Thread):
    """Makes jobs one after another.

    Args:
        settings: of the worker that is started first, as `mindsora.serving.worker.Worker` has them. A job of another
            model gets a process of its own.
        stalled_after: seconds without a message after which a job's process is ended.
        command: starts a worker.

    Attributes:
        job: that is being made.
        trouble: why no process can start, in words; None if one has.
        resident: bytes of the process, by its last message.
    """

    def __init__(
        self,
        store: Store,
        settings: dict,
        stalled_after: float,
        command: Sequence[str] = COMMAND,
        watch: Watch = Watch(),
    ):
        super().__init__(daemon=True, name="lane")
        self.store, self.settings, self.stalled_after = store, settings, stalled_after
        self.command, self.watch = command, watch
        self.process: Process | None = None
        self.job: Job | None = None
        self.trouble: str | None = None
        self.resident = 0
        self._draining = threading.Event()
        self._cancelled: str | None = None
        self._told: float | None = None  # when the process was told of it

    def drain(self) -> None:
        """Take no further job; the thread ends after the present one."""
        self._draining.set()

    def cancel(self, id: str) -> bool:
        """Stop a job if it is this lane's; whether it is."""
        job = self.job
        if job is None or job.id != id:
            return False
        self._cancelled = id
        return True

    def run(self) -> None:
        rest = FIRST_REST
        while not self._draining.is_set():
            try:
                working = self._ready()
                if working:
                    self._next()
            except Exception as error:  # a full disk under the queue, for one; without its lane a server hangs
                traceback.print_exc()
                working, self.trouble = False, f"{type(error).__name__}: {error}"
            if working:
                rest = FIRST_REST
            else:
                self._draining.wait(rest)
                rest = min(2 * rest, LONGEST_REST)
        if self.process is not None:
            self.process.end()

    def _ready(self) -> bool:
        """Whether a process runs; starts one."""
        if self.process is not None and self.process.alive:
            return True
        if self.process is not None:
            self._replace("ended")
        try:
            self._start(self.settings)
        except Ended as error:
            self.trouble = f"no model process can start: {error}"
        return self.process is not None

    def _start(self, settings: dict) -> None:
        """Start a process and wait until its model is loaded. Raises Ended."""
        self.process = Process(self.command, settings)
        try:
            message = self._message(time.monotonic() + self.stalled_after)
            if "ready" not in message:
                raise Ended(message["failed"])
        except Ended:
            self._end()
            raise
        self.trouble = None

    def _message(self, until: float) -> dict:
        """The next message. Raises Ended, also where none comes in time or the process does not heed a cancellation."""
        while True:
            self._tell_cancelled()
            if message := self.process.receive(0.1):
                self.resident = message.get("resident", self.resident)
                return message
            if time.monotonic() > until:
                self.watch.replaced("stalled")
                raise Ended(f"its process gave no sign for {self.stalled_after:g} s")
            if self._told is not None and time.monotonic() > self._told + GRACE:
                self.watch.replaced("cancelled")
                raise Ended("cancelled")

    def _tell_cancelled(self) -> None:
        """Pass a cancellation on, once."""
        if self._cancelled is not None and self._told is None:
            self._told = time.monotonic()
            self.process.send({"cancel": self._cancelled})

    def _end(self) -> None:
        if self.process is not None:
            self.process.end()
        self.process, self.resident = None, 0

    def _replace(self, why: str) -> None:
        self.watch.replaced(why)
        self._end()

    def _next(self) -> None:
        """Make the next job, if there is one."""
        job = self.store.claim()
        if job is None:
            self.store.wait(1.0)
            return
        self.job = job
        try:
            status, error, result = self._outcome(job)
        except Ended as ended:
            if self.process is not None and not self.process.alive:
                self.watch.replaced("ended")
            self._end()
            cancelled = self._cancelled == job.id
            status, error, result = ("cancelled", None, None) if cancelled else ("failed", str(ended), None)
        finally:
            self.job, self._cancelled, self._told = None, None, None
        if finished := self.store.finish(job.id, status, error, result):
            self.watch.ended(finished)

    def _outcome(self, job: Job) -> tuple[str, str | None, dict | None]:
        """Status, error and result of a job. Raises Ended."""
        asked = job.asked
        if self.process.loads != (asked.model, asked.reconstruct):
            self._end()
            self._start(self.settings | {"model": asked.model, "reconstruct": asked.reconstruct})
        folder = str(self.store.folder_of(job.id).resolve())
        self.process.send({"job": job.id, "folder": folder, "asked": asked.to_json()})
        while True:
            message = self._message(time.monotonic() + self.stalled_after)
            if "step" in message:
                self.store.progress(job.id, message["step"], message["steps"])
            elif "done" in message:
                return "completed", None, message["done"]
            elif "cancelled" in message:
                return "cancelled", None, None
            else:
                if message.get("ends"):
                    self._replace("ended")
                return "failed", message["failed"], None


class Lanes:
    """All lanes of a store.

    Args:
        devices: a device number for each; None leaves the choice to `Runtime`.
        settings, stalled_after, command, watch: as for Lane.
    """

    def __init__(self, store: Store, settings: dict, devices: Sequence[int | None], *args, **kwargs):
        self.store = store
        self.lanes = [
            Lane(store, settings | {"runtime": settings["runtime"] | {"device_id": device}}, *args, **kwargs)
            for device in devices
        ]

    def start(self) -> None:
        for lane in self.lanes:
            lane.start()

    def drain(self) -> None:
        """Let the jobs that are being made finish, and return when they have. What waits, waits on disk."""
        for lane in self.lanes:
            lane.drain()
        for lane in self.lanes:
            lane.join()

    def cancel(self, id: str) -> bool:
        """Cancel a job that waits or is being made; False for one that has ended. It may still end otherwise."""
        return self.store.cancel_queued(id) or any(lane.cancel(id) for lane in self.lanes)
