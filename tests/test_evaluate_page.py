"""The page of a report in Chromium: clips of any codec play, nothing is requested, names of files are text.

Needs Debian's chromium: apt-get install chromium.
"""

import av
import chromium
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from mindsora.data.toy.procedural import clip
from mindsora.evaluate import vbench
from mindsora.evaluate.evaluation import Asked
from mindsora.evaluate.running import evaluate
from mindsora.media import export_to_video

PATIENCE = 180_000  # milliseconds: a busy machine


def mpeg4(frames, path):
    """An mp4 whose codec browsers do not play."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.slow
def test_the_page_in_chromium(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    export_to_video(clip(0, "heldout")[0], videos / "<img src=x onerror=alert(1)>.mp4", 8)
    export_to_video(np.repeat(clip(1, "heldout")[0], 3, axis=2), videos / "wide.mp4", 24)
    mpeg4(clip(2, "heldout")[0], videos / "old.mp4")
    (videos / "torn.mp4").write_bytes(b"\0" * 300)
    evaluate(vbench.EVALUATION, Asked(tmp_path / "out", videos=videos))
    address = (tmp_path / "out/report.html").as_uri()
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        page, requests, problems = browser.new_page(viewport={"width": 1180, "height": 1400}), [], []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.evaluate("document.querySelectorAll('video').forEach(video => video.play())")
        page.wait_for_function("[...document.querySelectorAll('video')].every(video => video.currentTime > 0.3)")
        assert page.locator("video").count() == 3
        assert page.locator("text=complete: false").count() == 1 and page.locator("text=torn.mp4").count() >= 1
        assert page.locator("img").count() == 0 and not problems
        assert all(url.startswith((address, "data:", "blob:")) for url in requests)
        browser.close()
