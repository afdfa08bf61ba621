"""Clients ask a server for very many clips while its processes are killed: each accepted job ends once.

    python tests/campaigns/serving.py [--requests 300] [--clients 8]

The model is nano with two steps at 9 x 32 x 32, so that requests follow each other quickly. Whenever 50 jobs have ended,
the model process is killed; in the middle the server is, with SIGKILL, and started again. Every request has a key of its
own and is sent until it is answered.
"""

import argparse
import os
import signal
import socket
import sqlite3
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import harness
import numpy as np
import openai
from server_process import Server

BODY = {"num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2}
EVERY = 50  # jobs between two killed model processes
LIMIT = 0.5  # MiB a job: a clip and its latents that are kept are larger
PATIENCE = 600  # seconds for one request to be answered


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Campaign:
    """Attributes: `ended`, id -> status as clients saw it; `sizes`, process -> [MiB after each of its jobs]."""

    def __init__(self, folder: Path, requests: int):
        self.folder, self.port, self.requests = folder, free_port(), requests
        self.todo: SimpleQueue[int] = SimpleQueue()
        for number in range(requests):
            self.todo.put(number)
        self.ended: dict[str, str] = {}
        self.sizes: dict[int, list[float]] = {}
        self.server_sizes: list[float] = []
        self.lock, self.failure = threading.Lock(), None
        self.kills = Counter()
        self.server = self.start()

    def start(self) -> Server:
        command = ["-m", "mindsora.cli", "serve", "--device", "CPU", "--queue", "6"]
        return Server([*command, "--port", str(self.port), "--folder", str(self.folder)])

    def client(self) -> None:
        """One client: the next request when the last one has ended."""
        try:
            with openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0) as client:
                while True:
                    self.request(client, self.todo.get_nowait())
        except Empty:
            return
        except BaseException as error:
            self.failure = error

    def request(self, client, number: int) -> None:
        headers = {"Idempotency-Key": f"request {number}"}
        body = BODY | {"seed": number}
        create = client.videos.create
        video = self.answered(lambda: create(prompt="a red circle", extra_headers=headers, extra_body=body))
        while video.status not in ("completed", "failed"):
            time.sleep(0.1)
            video = self.answered(partial(client.videos.retrieve, video.id))
        with self.lock:
            assert video.id not in self.ended, f"{video.id} is the job of two requests"
            self.ended[video.id] = video.status

    def answered(self, call):
        """The answer, asked for again while the server is down or its queue is full."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                return call()
            except openai.RateLimitError:
                self.kills["queue_full"] += 1
            except openai.APIConnectionError:
                self.kills["connection"] += 1
            time.sleep(0.2)
        raise TimeoutError("no answer")

    def worker(self) -> int | None:
        """The process id of the model process."""
        children = Path(f"/proc/{self.server.process.pid}/task")
        for task in children.glob("*/children"):
            for pid in task.read_text().split():
                return int(pid)
        return None

    def watch(self) -> None:
        """Measure, and kill at the right moments, until every request has ended."""
        killed, middle = 0, False
        while len(self.ended) < self.requests:
            assert self.failure is None, self.failure
            time.sleep(0.2)
            count = len(self.ended)
            self.measure(count)
            if not middle and count >= self.requests // 2:
                middle = True
                self.server.kill()
                self.kills["server"] += 1
                self.server = self.start()
            elif count // EVERY > killed and (pid := self.worker()):
                killed = count // EVERY
                os.kill(pid, signal.SIGKILL)
                self.kills["worker"] += 1

    def measure(self, count: int) -> None:
        if pid := self.worker():
            sizes = self.sizes.setdefault(pid, [])
            if self.metric("mindsora_jobs_total") and (not sizes or count > sizes[-1][0]):
                sizes.append((count, self.metric("mindsora_worker_bytes") / 2**20))
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        self.server_sizes.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)

    def metric(self, name: str) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
                rows = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(row.split()[-1]) for row in rows if row.startswith(name))

    def rows(self) -> list[sqlite3.Row]:
        db = sqlite3.connect(self.folder / "jobs.sqlite")
        db.row_factory = sqlite3.Row
        return db.execute("SELECT * FROM jobs").fetchall()


def growth(samples: list[tuple[int, float]]) -> float:
    """Slope in MiB a job, without the first fifth: the first jobs of a process compile."""
    samples = samples[len(samples) // 5 :]
    return float(np.polyfit(*zip(*samples, strict=True), 1)[0]) if len(samples) > 2 else 0.0


def serve(folder: Path, requests: int, clients: int) -> dict:
    """Run it; what the receipt says."""
    campaign = Campaign(folder, requests)
    threads = [threading.Thread(target=campaign.client) for _ in range(clients)]
    try:
        for thread in threads:
            thread.start()
        campaign.watch()
        for thread in threads:
            thread.join()
        assert campaign.failure is None, campaign.failure
        assert campaign.server.stop() == 0
    finally:
        if campaign.server.process.poll() is None:
            campaign.server.kill()
    rows = campaign.rows()
    statuses = Counter(row["status"] for row in rows)
    assert len(rows) == len({row["key"] for row in rows}) == len(campaign.ended) == requests, "lost or doubled"
    assert {row["id"]: row["status"] for row in rows} == campaign.ended
    assert statuses["completed"] + statuses["failed"] == requests
    assert statuses["failed"] <= campaign.kills["worker"], [row["error"] for row in rows if row["error"]]
    files = {path.parent.name for path in (folder / "files").glob("*/clip.mp4")}
    assert files == {row["id"] for row in rows if row["status"] == "completed"}
    slopes = [growth(samples) for samples in campaign.sizes.values() if len(samples) > 20]
    server = campaign.server_sizes
    assert all(slope < LIMIT for slope in slopes), slopes
    return {
        "requests": requests,
        "clients": clients,
        "completed": statuses["completed"],
        "failed": statuses["failed"],
        "killed_model_processes": campaign.kills["worker"],
        "killed_servers": campaign.kills["server"],
        "begun_twice": sum(row["attempts"] > 1 for row in rows),
        "answers_429": campaign.kills["queue_full"],
        "worker_mib_a_job": [round(slope, 3) for slope in slopes],
        "worker_mib_a_job_most": round(max(slopes), 3),
        "server_mib": [round(server[len(server) // 5]), round(server[-1])],
        "seconds_a_job": round(float(np.median([r["finished"] - r["started"] for r in rows])), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        numbers = serve(Path(folder), args.requests, args.clients)
    print(numbers, flush=True)
    harness.finish("serving", {"rounds": 1, "serving": numbers}, start)


if __name__ == "__main__":
    main()
