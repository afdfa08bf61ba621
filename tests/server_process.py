"""A server in a process of its own, and OpenAI's client for it."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI

ROOT = Path(__file__).parents[1]
PATIENCE = 300  # seconds for anything that must happen


class Server:
    """Attributes: `url`; `client`, OpenAI's, which tries nothing twice."""

    def __init__(self, command: Sequence[str], **variables: str):
        path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | variables
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1]
        token = variables.get("MINDSORA_TOKEN", "none")
        self.client = OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0)

    def ended(self, id: str):
        """The video once it has ended; a server's `cancelled` is a status of its own."""
        return self.until(id, lambda video: video.status in ("completed", "failed", "cancelled"))

    def until(self, id: str, is_so):
        deadline = time.monotonic() + PATIENCE
        while not is_so(video := self.client.videos.retrieve(id)):
            assert time.monotonic() < deadline, video
            time.sleep(0.02)
        return video

    def stop(self) -> int:
        """Exit status after SIGTERM."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self.process.stdout.close()
        self.client.close()
        return status


@contextmanager
def serving(*command: str, **variables: str):
    server = Server(command, **variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
