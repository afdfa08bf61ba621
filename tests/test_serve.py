"""The server: OpenAI's own client drives it; jobs that end badly end alone; what is accepted is never lost."""

import io
import json
import os
import signal
import struct
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import openai
import pytest
from PIL import Image
from server_process import serving

from mindsora.media import read_video
from mindsora.serving.asked import LARGEST_UPLOAD

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),  # of the client: it means OpenAI's own server
]
STAND_IN = str(Path(__file__).with_name("stand_in_server.py"))
QUEUE = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(STAND_IN, str(tmp_path_factory.mktemp("served")), str(QUEUE)) as server:
        yield server


def fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
    """Status, headers and body, also of a refusal."""
    request = urllib.request.Request(url, body, {k.replace("_", "-"): v for k, v in headers.items()}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def picture(format: str = "PNG", size=(48, 48)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, format)
    return out.getvalue()


def metric(server, line: str) -> float:
    text = fetch(f"{server.url}/metrics")[2].decode()
    return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(line)), 0.0)


def test_openais_client(server):
    videos = server.client.videos
    video = videos.create_and_poll(
        prompt="a red circle", model="nano_i2v", seconds="1", size="48x32", extra_body={"seed": 7, "tile": 32}
    )
    assert (video.status, video.progress, video.size, video.seconds) == ("completed", 100, "48x32", "1.125")
    assert (video.num_frames, video.seed, video.error) == (9, 7, None)
    assert videos.download_content(video.id).read()[4:8] == b"ftyp"
    for variant in ("thumbnail", "spritesheet"):
        image = Image.open(io.BytesIO(videos.download_content(video.id, variant=variant).read()))
        assert image.format == "PNG"
    more = [videos.create(prompt="fog").id for _ in range(2)]
    listed = [one.id for one in videos.list(limit=2)]  # the client asks for page after page
    assert listed[:3] == [more[1], more[0], video.id]
    assert [one.id for one in videos.list(order="asc", after=video.id)] == more
    for id in more:
        server.ended(id)
    assert videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError, match="no video"):
        videos.retrieve(video.id)


def test_first_frame_as_an_upload(server):
    for format in ("PNG", "JPEG"):
        video = server.client.videos.create(prompt="go on", input_reference=(f"a.{format}", picture(format)))
        assert server.ended(video.id).status == "completed"


@pytest.mark.parametrize(
    "fields, status, words",
    [
        ({}, 400, "prompt: field required"),
        ({"prompt": ""}, 400, "at least 1 character"),
        ({"prompt": "x" * 5000}, 400, "at most 4000 characters"),
        ({"prompt": "\u7ea2\u8272"}, 400, "no words left after cleaning"),
        ({"prompt": "a", "sedd": 1}, 400, "no field 'sedd'"),
        ({"prompt": "a", "seed": -1}, 400, "seed = '-1'"),
        ({"prompt": "a", "size": "65x64"}, 400, "nearest legal: 64"),
        ({"prompt": "a", "size": "64 x 64"}, 400, "size = '64 x 64'"),
        ({"prompt": "a", "size": "64x64", "height": 64}, 400, "give one of them"),
        ({"prompt": "a", "seconds": "12"}, 400, "nearest legal: 2.12"),
        ({"prompt": "a", "seconds": "nan"}, 400, "seconds"),
        ({"prompt": "a", "seconds": 1, "num_frames": 9}, 400, "give one of them"),
        ({"prompt": "a", "num_frames": 16}, 400, "nearest legal: 9 or 17"),
        ({"prompt": "a", "num_inference_steps": 10**6}, 400, "from 1 to 1000"),
        ({"prompt": "a", "guidance_rescale": 2}, 400, "0 to 1"),
        ({"prompt": "a", "solver": "euler2"}, 400, "dpmpp_2m"),
        ({"prompt": "a", "model": "sora-2"}, 404, "served: nano_i2v"),
        ({"prompt": "a", "input_reference": "file-1"}, 400, "no field 'input_reference'"),
    ],
)
def test_refused(server, fields, status, words):
    answer = fetch(f"{server.url}/v1/videos", "POST", json.dumps(fields).encode(), Content_Type="application/json")
    error = json.loads(answer[2])["error"]
    assert answer[0] == status and words in error["message"] and error["type"] == "invalid_request_error"


def bomb() -> bytes:
    """A small PNG whose head promises 30,000 x 30,000 pixels."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", 30_000, 30_000)  # width and height of the IHDR chunk
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"<script>alert(1)</script>", "none of PNG"),
        (picture()[:60], "cannot read picture"),
        (picture(size=(8, 8)), "16"),
        (b"", "none of PNG"),
    ],
    ids=["no picture", "cut off", "too small", "empty"],
)
def test_hostile_uploads(server, content, words):
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        server.client.videos.create(prompt="go on", input_reference=("../../x.png", content))
    assert "video_" not in str(refused.value)  # folders of the server are nobody's business


def test_a_picture_that_expands(server):
    with pytest.raises(openai.BadRequestError, match="pixels"):
        server.client.videos.create(prompt="go on", input_reference=("x.png", bomb()))


def test_bodies_are_bounded(server):
    with pytest.raises(openai.APIStatusError, match="at most") as refused:
        server.client.videos.create(prompt="go on", input_reference=("x.png", bytes(LARGEST_UPLOAD + 2**21)))
    assert refused.value.status_code == 413
    for body in (b"{", b"[1]", b'{"prompt": ' * 5000):
        assert fetch(f"{server.url}/v1/videos", "POST", body, Content_Type="application/json")[0] == 400
    many = {f"field{n}": "x" for n in range(100)}
    with pytest.raises(openai.BadRequestError):
        server.client.videos.create(prompt="a", extra_body=many)


@pytest.mark.parametrize(
    "prompt, words",
    [("crash", "killed by SIGKILL"), ("memory", "out of memory"), ("hang", "gave no sign for 3 s")],
)
def test_a_job_that_ends_badly_ends_alone(server, prompt, words):
    before = metric(server, "mindsora_replaced_total")
    bad, good = (server.client.videos.create(prompt=text).id for text in (prompt, "fog"))
    failed = server.ended(bad)
    assert failed.status == "failed" and words in failed.error.message
    assert server.ended(good).status == "completed"
    assert before < sum(metric(server, f'mindsora_replaced_total{{why="{why}"}}') for why in ("ended", "stalled"))
    with pytest.raises(openai.ConflictError, match="is failed"):
        server.client.videos.download_content(bad)


def test_queue_is_bounded_and_can_be_cancelled(server, tmp_path):
    create, cancel = server.client.videos.create, f"{server.url}/v1/videos/{{}}/cancel"
    running = create(prompt=f"wait {tmp_path / 'go'}").id
    server.until(running, lambda video: video.status == "in_progress" and video.progress == 99)
    queued = [create(prompt=f"fog {n}").id for n in range(QUEUE)]
    assert [server.client.videos.retrieve(id).queue_place for id in queued] == [1, 2, 3]
    with pytest.raises(openai.RateLimitError, match="queue is full") as full:
        create(prompt="one too many")
    assert int(full.value.response.headers["retry-after"]) >= 1
    assert fetch(cancel.format(queued[1]), "POST")[0] == 200
    assert server.client.videos.retrieve(queued[1]).status == "cancelled"
    assert server.client.videos.retrieve(queued[2]).queue_place == 2
    with pytest.raises(openai.ConflictError, match="cancel it first"):
        server.client.videos.delete(running)
    assert fetch(cancel.format(running), "POST")[0] == 200
    assert server.ended(running).status == "cancelled"
    assert {server.ended(id).status for id in (queued[0], queued[2])} == {"completed"}
    assert fetch(cancel.format(running), "POST")[0] == 409 and fetch(cancel.format("none"), "POST")[0] == 404


def test_one_key_is_one_job(server):
    videos = server.client.videos
    ids = {videos.create(prompt="fog", extra_headers={"Idempotency-Key": "a"}).id for _ in range(3)}
    assert len(ids) == 1 and server.ended(ids.pop()).status == "completed"


def test_health_metrics_and_description(server):
    health = json.loads(fetch(f"{server.url}/health")[2])
    assert health["status"] == "ok" and health["lanes"] == 1
    assert metric(server, 'mindsora_jobs_total{status="completed"}') > 0
    schema = json.loads(fetch(f"{server.url}/openapi.json")[2])
    assert {"/v1/videos", "/v1/videos/{id}", "/v1/videos/{id}/content", "/v1/videos/{id}/cancel"} <= schema[
        "paths"
    ].keys()
    assert "prompt" in schema["components"]["schemas"]["VideoBody"]["properties"]
    page = fetch(f"{server.url}/docs")[2].decode()
    assert "/v1/videos/{id}/cancel" in page and "//" not in page.replace("<!doctype", "")  # no other host
    assert [model.id for model in server.client.models.list()] == ["nano_i2v"]


@pytest.mark.parametrize("headers, status", [({"Host": "evil.example"}, 403), ({"Origin": "http://evil.example"}, 403)])
def test_pages_of_other_sites_cannot_call(server, headers, status):
    assert fetch(f"{server.url}/v1/videos", **headers)[0] == status


def test_token(tmp_path):
    token = "a-token-of-tests"
    with serving(STAND_IN, str(tmp_path), "3", MINDSORA_TOKEN=token) as server:
        assert server.ended(server.client.videos.create(prompt="fog").id).status == "completed"
        for path in ("/v1/videos", "/metrics", "/docs", "/openapi.json"):
            assert fetch(server.url + path)[0] == 401
            assert fetch(server.url + path, Authorization="Bearer another-token-of-tests")[0] == 401
            assert fetch(server.url + path, Authorization=f"Bearer {token}")[0] == 200
        assert fetch(f"{server.url}/health")[0] == 200


def test_sigterm_drains(tmp_path):
    with serving(STAND_IN, str(tmp_path / "served"), "3") as server:
        running = server.client.videos.create(prompt=f"wait {tmp_path / 'go'}").id
        server.until(running, lambda video: video.status == "in_progress" and video.progress == 99)
        queued = server.client.videos.create(prompt="fog").id
        server.process.terminate()
        with pytest.raises(openai.APIConnectionError):  # no new requests
            while True:
                server.client.videos.list()
                time.sleep(0.02)
        (tmp_path / "go").touch()
        assert server.wait() == 0
    with serving(STAND_IN, str(tmp_path / "served"), "3") as server:
        assert server.client.videos.retrieve(running).status == "completed"
        assert server.ended(queued).status == "completed"


def test_a_killed_server_loses_nothing(tmp_path):
    folder = tmp_path / "served"
    with serving(STAND_IN, str(folder), "3") as server:
        running, queued = (server.client.videos.create(prompt=text).id for text in (f"wait {tmp_path / 'go'}", "fog"))
        server.until(running, lambda video: video.status == "in_progress" and video.progress == 99)
        server.kill()
    (tmp_path / "go").touch()
    (folder / "files" / "video_that_was_never_accepted").mkdir()
    with serving(STAND_IN, str(folder), "3") as server:
        assert [server.ended(id).status for id in (running, queued)] == ["completed", "completed"]
        assert [video.id for video in server.client.videos.list(order="asc")] == [running, queued]
        assert sorted(path.name for path in (folder / "files").iterdir()) == sorted([running, queued])
        assert metric(server, 'mindsora_jobs_total{status="completed"}') == 2


def test_a_job_that_ends_the_server_fails_in_the_end(tmp_path):
    for _ in range(3):
        with serving(STAND_IN, str(tmp_path), "3") as server:
            listed = [video.id for video in server.client.videos.list()]
            id = listed[0] if listed else server.client.videos.create(prompt=f"wait {tmp_path / 'go'}").id
            server.until(id, lambda video: video.status == "in_progress")
            server.kill()
    with serving(STAND_IN, str(tmp_path), "3") as server:
        video = server.ended(id)
        assert video.status == "failed" and "ended 3 times" in video.error.message


def test_workers_end_with_a_killed_server(tmp_path):
    with serving(STAND_IN, str(tmp_path), "3") as server:
        id = server.client.videos.create(prompt="fog").id
        server.ended(id)
        pid = json.loads(server.client.videos.download_content(id, variant="manifest").read())["pid"]
        server.kill()
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        os.kill(pid, 0)
        time.sleep(0.02)


def test_nano(tmp_path):
    """The command itself, and a clip of a real model that an mp4 reader reads."""
    command = ["-m", "mindsora.cli", "serve", "--port", "0", "--folder", str(tmp_path / "served"), "--device", "CPU"]
    with serving(*command) as server:
        body = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 2, "seed": 5}
        video = server.ended(server.client.videos.create(prompt="a red circle moving right", extra_body=body).id)
        assert video.status == "completed", video
        (tmp_path / "clip.mp4").write_bytes(server.client.videos.download_content(video.id).read())
        frames, fps = read_video(tmp_path / "clip.mp4")
        assert frames.shape == (9, 32, 48, 3) and fps == 8
        manifest = json.loads(server.client.videos.download_content(video.id, variant="manifest").read())
        assert manifest["request"]["seed"] == 5 and manifest["request"]["prompt"] == "a red circle moving right"
        assert manifest["run"]["command"].startswith("mindsora serve") and str(tmp_path) not in manifest["file"]
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
