"""The studio in a real browser: Debian's Chromium, driven by Playwright. Run it alone:

    python -m pytest tests/test_studio_page.py -m slow

With SCREENSHOTS=docs in the environment it writes the pictures of docs/studio.md.
"""

import io
import json
import os
import re
import socket
from pathlib import Path

import chromium
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from clip_files import write
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from server_process import PATIENCE, serving

pytestmark = pytest.mark.slow
SCREENSHOTS = os.environ.get("SCREENSHOTS")
QUICK = {"Steps": "4", "Frames": "9", "Height": "32", "Width": "32"}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        browser = chromium.launch(play)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that may ask no other host for anything and may print no error of its own."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)
    page.foreign = []
    page.on("request", lambda request: page.foreign.append(request.url))
    yield page
    assert all(re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", url) for url in page.foreign), page.foreign
    page.close()


def studio(folder: Path, port: int = 0):
    # Without graphs: a clip of four steps takes less time than compiling them.
    command = ["-m", "mindsora.cli", "studio", "--device", "CPU", "--jit", "off"]
    return serving(*command, "--port", str(port), "--folder", str(folder))


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    page.get_by_role("heading", name="Gallery").wait_for()
    return page


def panel(page: Page):
    """The tab that is open."""
    return page.get_by_role("tabpanel").filter(visible=True).first


def choose(page: Page, **values: str) -> None:
    """Set the controls of a clip's size."""
    for label, value in values.items():
        if label == "Steps":
            field = panel(page).get_by_label("number input for Steps")
            field.fill(value)
            field.press("Enter")
        else:
            panel(page).get_by_label(label, exact=True).click()
            page.get_by_role("option", name=value, exact=True).last.click()  # the list before may still be closing


def said(page: Page, words: str) -> None:
    expect(page.locator("#said")).to_contain_text(words)


def shot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/studio_{name}.png", full_page=True)


def upload(page: Page, number: int, name: str, content: bytes) -> None:
    kind = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    with page.expect_response(re.compile("upload")):
        panel(page).locator("input[type=file]").nth(number).set_input_files(kind)
    expect(panel(page)).to_contain_text(name.rsplit(".", 1)[0][:8])


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "orange").save(out, "PNG")
    return out.getvalue()


def serious(page: Page) -> list:
    """Accessibility findings of axe-core that are serious or worse."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found if one["impact"] in SERIOUS]


def test_make_cancel_reload_restart_again(page, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url, gallery, queue = f"http://127.0.0.1:{port}/", page.locator("#gallery"), page.locator("#queue")
    with studio(tmp_path / "studio", port) as server:
        opened(page, url)
        expect(panel(page)).to_contain_text("Plan: 17 frames of 64 x 64")
        choose(page, **QUICK)
        expect(panel(page)).to_contain_text("Plan: 9 frames of 32 x 32")
        page.get_by_label("Prompt", exact=True).first.fill("a red circle moving right <b>")
        page.locator("#seeds textarea, #seeds input").fill("0-1")
        page.get_by_role("button", name="Make the video").click()
        said(page, "Accepted: a red circle moving right <b>")  # as text: nothing that a user writes becomes HTML
        expect(gallery.locator("video")).to_have_count(2)
        expect(gallery).to_contain_text("2 of 2 seeds shown")
        page.wait_for_function("() => [...document.querySelectorAll('#gallery video')].every(v => v.readyState > 0)")

        page.locator("#seeds textarea, #seeds input").fill("5")
        choose(page, Steps="100", Frames="17", Height="64", Width="64")
        page.get_by_role("button", name="Make the video").click()
        expect(queue.locator("img")).to_be_visible()  # the preview of a step
        expect(queue).to_contain_text("of 100")
        shot(page, "making")
        page.get_by_role("button", name="Cancel it").click()
        expect(gallery).to_contain_text("cancelled")

        opened(page, url)
        expect(gallery.locator("video")).to_have_count(2)
        shot(page, "gallery")
        assert serious(page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        shot(page, "phone")
        page.set_viewport_size({"width": 1100, "height": 900})
        assert server.stop() == 0
    with studio(tmp_path / "studio", port):
        opened(page, url)
        expect(gallery.locator("video")).to_have_count(2)
        link = gallery.get_by_role("link", name="manifest").first.get_attribute("href")
        manifest = page.request.get(url + link.lstrip("/")).body()
        page.get_by_role("tab", name="Make again").click()
        upload(page, 0, "again.json", manifest)
        page.get_by_role("button", name="Make it again").click()
        expect(gallery).to_contain_text("made again: identical frames")


def test_every_tab_and_hostile_uploads(page, tmp_path):
    gallery = page.locator("#gallery")
    with studio(tmp_path / "studio") as server:
        opened(page, server.url)
        page.get_by_role("tab", name="Image to video").click()
        panel(page).get_by_label("Prompt").fill("an orange square")
        upload(page, 0, "not_a_picture.png", b"<script>alert(1)</script>")
        panel(page).get_by_role("button", name="Make the video").click()
        said(page, "Not started: cannot read picture")
        panel(page).get_by_role("button", name="Clear").first.click()
        upload(page, 0, "..%2f..%2fx.png", picture())
        upload(page, 1, "between.png", picture())  # a field with a file has no input any more: this is the third
        expect(panel(page).locator(".timeline img")).to_have_count(2)
        choose(page, **QUICK)
        expect(panel(page)).to_contain_text("frames 0 to 8; 2 given")
        expect(panel(page).get_by_label("number input for Number of the other frame")).to_have_value("7")
        expect(panel(page)).to_contain_text("Plan: 9 frames of 32 x 32")
        panel(page).get_by_role("button", name="Make the video").click()
        said(page, "Accepted")
        expect(gallery.locator("video")).to_have_count(1)

        page.get_by_role("tab", name="Long video").click()
        panel(page).get_by_role("button", name="Make the video").click()
        said(page, "Not started: give a prompt")
        panel(page).get_by_label("Prompts, one a line").fill("a red circle\na blue square")
        choose(page, **QUICK)
        panel(page).get_by_role("button", name="Make the video").click()
        said(page, "Accepted: a red circle | a blue square")
        expect(gallery.locator("video")).to_have_count(2)

        page.get_by_role("tab", name="Reconstruct").click()
        upload(page, 0, "not_a_video.mp4", b"\0" * 1000)
        panel(page).get_by_role("button", name="Reconstruct").click()
        said(page, "Not started: cannot read 'given.mp4' as a video")
        panel(page).get_by_role("button", name="Clear").first.click()
        write(tmp_path / "clip.mp4", np.full((9, 32, 48, 3), 90, np.uint8))
        upload(page, 0, "clip.mp4", (tmp_path / "clip.mp4").read_bytes())
        panel(page).get_by_role("button", name="Reconstruct").click()
        expect(gallery).to_contain_text("PSNR")

        page.get_by_role("tab", name="Make again").click()
        for content, words in (
            (b"{", "is not JSON"),
            (json.dumps({"format": "x"}).encode(), "is no manifest"),
            (b" " * 2**21, "at most 1048576 bytes"),
        ):
            upload(page, 0, "hostile.json", content)
            page.get_by_role("button", name="Make it again").click()
            said(page, "Not started: ")
            said(page, words)
            panel(page).get_by_role("button", name="Clear").first.click()
        for path in ("gradio_api/file=/etc/passwd", "gradio_api/file=setup.py", "files/x/clip.mp4", "file=setup.py"):
            assert page.request.get(f"{server.url}/{path}").status in (403, 404)
        assert serious(page) == []
