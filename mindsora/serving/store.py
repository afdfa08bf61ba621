"""The queue: jobs in SQLite, the files of each in a folder of its own. One server at a time has a store open.

A job is `queued`, then `in_progress`, then one of ENDS. What is accepted is on disk before the client hears of it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mindsora.errors import InputError, shown
from mindsora.files import claimed
from mindsora.serving.asked import Asked

ENDS = ("completed", "failed", "cancelled")
MOST_ATTEMPTS = 3  # servers that may end while they make a job; after that the job fails, lest it ends each new one
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT UNIQUE,
    asked TEXT NOT NULL,
    status TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    steps_done INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    result TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, number);
"""


class QueueFull(Exception):
    """As many jobs wait as may; `seconds` until one is likely to be taken from the queue."""

    def __init__(self, seconds: int):
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True)
class Job:
    """A row.

    Attributes:
        number: order of acceptance.
        id: names its folder and its address.
        created, started, finished: seconds since the epoch.
        attempts: how often it was taken from the queue.
        steps_done, steps: denoising steps of all clips of the job.
        error: one sentence where it failed.
        result: `clips` (names of files), `sheet`, `warnings`, `measures`.
    """

    number: int
    id: str
    key: str | None
    asked: Asked
    status: str
    created: float
    started: float | None
    finished: float | None
    attempts: int
    steps_done: int
    steps: int
    error: str | None
    result: dict

    @classmethod
    def of(cls, row: sqlite3.Row) -> Job:
        values = dict(row)
        values["asked"] = Asked.from_json(json.loads(values["asked"]))
        values["result"] = json.loads(values["result"] or "{}")
        return cls(**values)

    @property
    def ended(self) -> bool:
        return self.status in ENDS


class Store:
    """A folder with `jobs.sqlite` and `files/ID/`. Every method may be called from any thread.

    Args:
        folder: made if it is not there.
        most_queued: jobs that may wait.

    Raises:
        InputError: another process has the folder open, or it cannot be written.
    """

    def __init__(self, folder: Path, most_queued: int = 100):
        self.folder, self.most_queued = folder, most_queued
        self._open = ExitStack()
        try:
            (folder / "files").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {shown(folder)}: {error.strerror}") from error
        self._open.enter_context(claimed(folder / "jobs.sqlite"))
        try:
            self._db = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _SCHEMA)
        except sqlite3.Error as error:
            self._open.close()
            raise InputError(f"{shown(folder / 'jobs.sqlite')} is no queue of MindSora: {error}") from error
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._recover()
        self._sweep()

    def close(self) -> None:
        with self._lock:
            self._db.close()
        self._open.close()

    def _recover(self) -> None:
        """Queue again what the last server had begun."""
        self._write(
            "UPDATE jobs SET status = 'failed', finished = ?, error = ? WHERE status = 'in_progress' AND attempts >= ?",
            (time.time(), f"the server ended {MOST_ATTEMPTS} times while it made this job", MOST_ATTEMPTS),
        )
        self._write("UPDATE jobs SET status = 'queued', steps_done = 0 WHERE status = 'in_progress'")

    def _sweep(self) -> None:
        """Remove folders of jobs that were never accepted, or are deleted."""
        known = {row["id"] for row in self._read("SELECT id FROM jobs")}
        for folder in (self.folder / "files").iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def _read(self, query: str, values: Iterable = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, tuple(values)).fetchall()

    def _write(self, query: str, values: Iterable = ()) -> list[sqlite3.Row]:
        rows = self._read(query, values)
        with self._changed:
            self._changed.notify_all()
        return rows

    # Clients.

    def folder_of(self, id: str) -> Path:
        """A job's folder."""
        return self.folder / "files" / id

    def add(self, asked: Asked, uploads: dict[str, bytes], check: Callable[[Asked, Path], object], key=None) -> Job:
        """Accept a job.

        Args:
            uploads: name -> content of the files that `asked` gives.
            check: called with the request and the job's folder; it raises InputError for what cannot be made.
            key: of the client: a second request with it gets the first one's job.

        Raises:
            QueueFull: as many jobs wait as may.
            InputError: of `check`.
        """
        if key is not None and (rows := self._read("SELECT * FROM jobs WHERE key = ?", (key,))):
            return Job.of(rows[0])
        self._check_room()
        id = f"video_{secrets.token_hex(12)}"
        folder = self.folder_of(id)
        try:
            folder.mkdir()
            for name, content in uploads.items():
                (folder / name).write_bytes(content)
            check(asked, folder)
            return self._insert(id, key, asked)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise InputError(f"cannot keep the files of a job: {error.strerror}") from error
            raise

    def _insert(self, id: str, key: str | None, asked: Asked) -> Job:
        """One statement, so that of two requests with one key, or for the last place, one wins."""
        rows = self._write(
            "INSERT INTO jobs (id, key, asked, status, created) SELECT ?, ?, ?, 'queued', ? "
            "WHERE (SELECT count(*) FROM jobs WHERE status = 'queued') < ? ON CONFLICT (key) DO NOTHING RETURNING *",
            (id, key, json.dumps(asked.to_json()), time.time(), self.most_queued),
        )
        if rows:
            return Job.of(rows[0])
        shutil.rmtree(self.folder_of(id), ignore_errors=True)
        if rows := self._read("SELECT * FROM jobs WHERE key = ?", (key,)):
            return Job.of(rows[0])
        raise QueueFull(self.seconds_a_job())

    def _check_room(self) -> None:
        if self.counts().get("queued", 0) >= self.most_queued:
            raise QueueFull(self.seconds_a_job())

    def seconds_a_job(self) -> int:
        """Median of the last jobs, at least 1; 10 where none is finished yet."""
        rows = self._read(
            "SELECT finished - started AS seconds FROM jobs WHERE status = 'completed' ORDER BY finished DESC LIMIT 20"
        )
        return max(1, round(statistics.median(row["seconds"] for row in rows))) if rows else 10

    def get(self, id: str) -> Job | None:
        rows = self._read("SELECT * FROM jobs WHERE id = ?", (id,))
        return Job.of(rows[0]) if rows else None

    def list(self, limit: int = 20, after: int | None = None, ascending: bool = False) -> list[Job]:
        """Jobs in the order of acceptance; `after`: the number of the last one that was seen."""
        sign, order = (">", "ASC") if ascending else ("<", "DESC")
        where, values = ("", ()) if after is None else (f"WHERE number {sign} ?", (after,))
        rows = self._read(f"SELECT * FROM jobs {where} ORDER BY number {order} LIMIT ?", (*values, limit))
        return [Job.of(row) for row in rows]

    def place(self, job: Job) -> int:
        """Jobs that come before a queued one, itself included."""
        rows = self._read("SELECT count(*) AS places FROM jobs WHERE status = 'queued' AND number <= ?", (job.number,))
        return rows[0]["places"]

    def counts(self) -> dict[str, int]:
        """Status -> jobs."""
        rows = self._read("SELECT status, count(*) AS jobs FROM jobs GROUP BY status")
        return {row["status"]: row["jobs"] for row in rows}

    def cancel_queued(self, id: str) -> bool:
        """Cancel a job that nobody has begun; whether it was one."""
        return bool(
            self._write(
                "UPDATE jobs SET status = 'cancelled', finished = ? WHERE id = ? AND status = 'queued' RETURNING id",
                (time.time(), id),
            )
        )

    def delete(self, id: str) -> bool:
        """Forget an ended job and remove its files; whether there was one."""
        deleted = self._write(
            "DELETE FROM jobs WHERE id = ? AND status IN ('completed', 'failed', 'cancelled') RETURNING id", (id,)
        )
        if deleted:
            shutil.rmtree(self.folder_of(id), ignore_errors=True)
        return bool(deleted)

    # Lanes.

    def claim(self) -> Job | None:
        """Take the job that waits longest."""
        rows = self._write(
            "UPDATE jobs SET status = 'in_progress', started = ?, attempts = attempts + 1, steps_done = 0 WHERE id = "
            "(SELECT id FROM jobs WHERE status = 'queued' ORDER BY number LIMIT 1) RETURNING *",
            (time.time(),),
        )
        return Job.of(rows[0]) if rows else None

    def progress(self, id: str, done: int, steps: int) -> None:
        """Say how far a job is."""
        self._read("UPDATE jobs SET steps_done = ?, steps = ? WHERE id = ?", (done, steps, id))

    def finish(self, id: str, status: str, error: str | None = None, result: dict | None = None) -> Job | None:
        """End a job that is in progress; of two ends the first counts. Returns it, or None for one that had ended."""
        rows = self._write(
            "UPDATE jobs SET status = ?, finished = ?, error = ?, result = ? "
            "WHERE id = ? AND status = 'in_progress' RETURNING *",
            (status, time.time(), error, json.dumps(result or {}), id),
        )
        return Job.of(rows[0]) if rows else None

    def wait(self, seconds: float) -> None:
        """Return when a job was added or has ended, or after so many seconds."""
        with self._changed:
            self._changed.wait(seconds)
