"""The studio without a browser: what a manifest asks for again, which files are served, who is let in."""

import asyncio
import hashlib
import json

import pytest

from mindsora.errors import InputError
from mindsora.manifest import FORMAT
from mindsora.serving.asked import Asked
from mindsora.serving.store import Store
from mindsora.studio.requests import Models, again, check, planned, with_frames

MODELS = Models("nano", "nano_i2v")
REQUEST = {
    "model": "nano_i2v", "prompt": "fog", "negative_prompt": "", "seed": 7, "num_frames": 9, "height": 32, "width": 48,
    "num_inference_steps": 4, "guidance_scale": 2.0, "guidance_rescale": 0.0, "dtype": None,
}  # fmt: skip
PICTURE = b"the bytes of a picture"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "studio")
    yield store
    store.close()


@pytest.fixture
def manifest(tmp_path):
    """Write a manifest whose request has these values too; returns its path."""

    def write(**request):
        stack = {"runtime": {}, "device": {}}
        content = {"format": FORMAT, "file": "clip.mp4", "request": REQUEST | request, "stack": stack}
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(content | {"result": {"frames_sha256": "abc"}}))
        return path

    return write


def test_a_manifest_is_asked_for_again(manifest, store):
    draft = again(manifest(solver="dpmpp_2m"), store, MODELS)
    assert draft.asked.prompts == ("fog",) and draft.asked.seeds == (7,) and draft.asked.expected_sha256 == "abc"
    assert draft.asked.options["solver"] == "dpmpp_2m" and draft.asked.options["height"] == 32
    long = {"prompts": ["fog", "sun"], "duration": 3.0, "overlap": 1, "noise_strength": 0.1}
    draft = again(manifest(long_video=long), store, MODELS)
    assert (draft.asked.prompts, draft.asked.duration, draft.asked.overlap) == (("fog", "sun"), 3.0, 1)
    check(draft.asked, store.folder)


def test_given_frames_come_from_the_gallery(manifest, store, tmp_path):
    sha256 = hashlib.sha256(PICTURE).hexdigest()
    given = {
        "images": [["frame-0.png", "0"]], "video": None, "keep": None, "fit": "pad", "noise_strength": 0.05,
        "sha256": {"frame-0.png": sha256}, "times": [0],
    }  # fmt: skip
    with pytest.raises(InputError, match="no file of the gallery"):
        again(manifest(given=given), store, MODELS)
    store.add(Asked("nano_i2v", ("fog",)), {"frame-3.png": PICTURE}, lambda asked, folder: None)
    draft = again(manifest(given=given), store, MODELS)
    assert draft.uploads == {"frame-0.png": PICTURE}
    assert (draft.asked.images, draft.asked.fit, draft.asked.noise_strength) == ((("frame-0.png", "0"),), "pad", 0.05)


@pytest.mark.parametrize(
    "request_, words",
    [
        ({"model": "/etc"}, "this studio has nano and nano_i2v"),
        ({"dtype": "float16"}, "start the studio with --dtype"),
        ({"lora": [{"file": "x"}]}, "use mindsora rerun"),
        ({"given": {"sha256": {"../../x": "0"}}}, "no file of the gallery"),
        ({"given": {"images": [["/etc/passwd", "0"]], "sha256": {}}}, "files of another folder"),
        ({"given": {"video": "/etc/passwd"}}, "files of another folder"),
        ({"given": {"images": 5}}, "not as `mindsora` writes it"),
        ({"given": {"sha256": "x"}}, "not as `mindsora` writes it"),
        ({"long_video": {"prompts": ["a"] * 65}}, "65 prompts"),
        ({"long_video": {"prompts": 5}}, "must be"),
    ],
)
def test_hostile_manifests(manifest, store, request_, words):
    with pytest.raises(InputError, match=words):
        again(manifest(**request_), store, MODELS)


def test_uploads_get_names_of_ours(tmp_path):
    (tmp_path / "..%2fx.png").write_bytes(b"x")
    draft = with_frames(Asked("nano_i2v", ("fog",)), [(None, "0"), (str(tmp_path / "..%2fx.png"), "-1")])
    assert draft.asked.images == (("frame-0.png", "-1"),) and draft.uploads == {"frame-0.png": b"x"}


@pytest.mark.full
def test_plan(store):
    asked = Asked("nano", ("fog",), options={"num_frames": 9, "height": 32, "width": 48})
    assert planned(asked, MODELS, store).startswith("9 frames of 48 x 32 (1.12 s), 12 tokens, 25 steps")
    with pytest.raises(InputError, match="nearest legal"):
        planned(Asked("nano", ("fog",), options={"num_frames": 10}), MODELS, store)


@pytest.mark.full
def test_files_and_login(store):
    """Requests to the application itself; it is not started, so no model process runs."""
    import httpx

    from mindsora.serving.lanes import Lanes
    from mindsora.studio.app import create_app

    token = "a-token-of-tests"
    lanes = Lanes(store, {"model": "nano", "reconstruct": False, "runtime": {}}, [None], 60.0)
    app = create_app(store, lanes, MODELS, "0.0.0.0", token)
    job = store.add(Asked("nano", ("fog",)), {"frame-0.png": b"x", "clip.mp4": b"film"}, lambda asked, folder: None)
    store.claim()
    store.finish(job.id, "completed", result={"clips": ["clip.mp4"], "sheet": None})

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://video.example") as client:
            assert (await client.get("/")).status_code == 401
            page = await client.get("/", headers={"Accept": "text/html"})
            assert (page.status_code, page.headers["location"]) == (303, "/login")
            assert (await client.get(f"/files/{job.id}/clip.mp4")).status_code == 401
            assert (await client.post("/gradio_api/upload")).status_code == 401
            assert "Token" in (await client.get("/login")).text
            assert (await client.post("/login", data={"token": "wrong"})).status_code == 401
            entered = await client.post("/login", data={"token": token})
            assert entered.status_code == 303
            cookie = entered.headers["set-cookie"].lower()
            assert "httponly" in cookie and "samesite=strict" in cookie
            assert (await client.get("/")).status_code == 200  # with the cookie
            assert (await client.get(f"/files/{job.id}/clip.mp4")).content == b"film"
            for path in (
                f"files/{job.id}/frame-0.png", f"files/{job.id}/..%2F..%2F..%2Fjobs.sqlite", "files/x/clip.mp4",
                "gradio_api/file=/etc/passwd", f"gradio_api/file={store.folder}/jobs.sqlite", "gradio_api/file=setup.py",
            ):  # fmt: skip
                assert (await client.get(f"/{path}")).status_code in (403, 404), path
            other = await client.get("/", headers={"Origin": "http://evil.example"})
            assert other.status_code == 403

    asyncio.run(ask())
