"""The rating page in Chromium: clips play, votes persist after a reload and a restart.

Needs Debian's chromium: apt-get install chromium.
"""

import json
import signal
import subprocess
import sys
import time

import chromium
import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright

from mindsora.data.toy.procedural import Thing, render
from mindsora.evaluate.rating import REPORT
from mindsora.media import export_to_video

PATIENCE = 180_000  # milliseconds: a busy machine


@pytest.fixture
def folder(tmp_path):
    for model, shape in (("aurora", "circle"), ("boreal", "square")):
        for number, motion in enumerate(("left", "right", "growing")):
            video = render((Thing(shape, "red", motion),), "gray", np.random.RandomState(number))
            export_to_video(video, tmp_path / "study" / model / f"clip-{number}.mp4", 8)
    return tmp_path / "study"


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


class Running:
    """The command in a process of its own, as people start it."""

    def __init__(self, folder, port=0):
        program = [sys.executable, "-c", "from mindsora.cli import program; program()"]
        command = [*program, "evaluate", "rate", str(folder), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().split()[0]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE / 1000) == 0
        return int(self.address.rstrip("/").rpartition(":")[2])


def wait(page, condition):
    """Until a condition of the page is true. Playwright's own waiting evaluates text, which the page's policy forbids."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


@pytest.mark.slow
def test_rating_in_chromium(page, folder):
    requests, running = [], Running(folder)
    address = running.address
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.fill("#rater", "ann")
    page.click("#who button")
    progress = page.locator("#progress")
    expect(progress).to_have_text("0 of 3 done", timeout=PATIENCE)
    for side in ("left", "right"):
        wait(page, f"at('{side}').currentTime > 0.3 && !at('{side}').paused && !at('{side}').error")
    assert not any(word in page.content() for word in ("aurora", "boreal"))

    page.click("[data-choice=left]")
    expect(progress).to_have_text("1 of 3 done", timeout=PATIENCE)
    page.reload()
    expect(progress).to_have_text("1 of 3 done", timeout=PATIENCE)
    page.keyboard.press("2")
    expect(progress).to_have_text("2 of 3 done", timeout=PATIENCE)

    port = running.stop()
    page.click("[data-choice=right]")
    expect(page.locator("#error")).not_to_be_empty(
        timeout=PATIENCE
    )  # nobody answers: the page says so and keeps the pair
    running = Running(folder, port)
    page.reload()
    expect(progress).to_have_text("2 of 3 done", timeout=PATIENCE)
    page.click("[data-choice=right]")
    expect(progress).to_have_text("3 of 3 done. Thank you.", timeout=PATIENCE)
    running.stop()
    content = json.loads((folder / REPORT).read_text())
    assert (content["votes"], content["ties"], content["raters"]) == (3, 1, 1)
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)
