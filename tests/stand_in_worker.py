"""Speaks the language of `mindsora.serving.worker`, and does what the prompt says instead of making a clip.

crash: it is killed. memory: it reports what a full memory raises, and ends. hang: it says nothing more.
wait FILE: it works on until there is such a file. Everything else: three steps, then the files that a job leaves.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from mindsora.manifest import beside
from mindsora.media import contact_sheet, export_to_video

jobs: SimpleQueue = SimpleQueue()
cancelled = set()


def listen():
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.add(message["cancel"])
        else:
            jobs.put(message)
    os._exit(0)


def send(**message):
    print(json.dumps(message), flush=True)


def outcome(message) -> dict:
    os.chdir(message["folder"])
    word, _, file = message["asked"]["prompts"][0].partition(" ")
    if word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "memory":
        send(failed="out of memory: 40 GiB asked for, 2 GiB free", ends=True)
        os._exit(1)
    step = 0
    while step < 3 or (word == "wait" and not Path(file).exists()) or word == "hang":
        step = min(step + 1, 3)
        if word != "hang":
            send(step=step, steps=3, resident=2**20)
        time.sleep(0.02)
        if message["job"] in cancelled and word != "hang":
            return {"cancelled": message["job"]}
    frames = np.full((2, 32, 32, 3), 128, np.uint8)
    export_to_video(frames, "clip.mp4")
    contact_sheet([frames], ["a clip"], "clip-seeds.png")
    beside("clip.mp4").write_text(json.dumps({"pid": os.getpid()}))
    return {"done": {"clips": ["clip.mp4"], "sheet": "clip-seeds.png", "warnings": []}}


threading.Thread(target=listen, daemon=True).start()
send(ready=0.0)
while True:
    send(**outcome(jobs.get()))
