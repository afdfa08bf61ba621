"""The parts of the server that need none: the queue on disk, and who may call."""

import asyncio
import json

import pytest

from mindsora import cli
from mindsora.errors import InputError
from mindsora.serving.access import Guard, is_local, token_for
from mindsora.serving.asked import Asked
from mindsora.serving.store import QueueFull, Store

ASKED = Asked("nano", ("fog",), (3,), {"height": 32}, (("a.png", "-1"),))


def nothing(asked, folder):
    """A check that everything passes."""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, most_queued=2)
    yield store
    store.close()


def test_a_job_is_what_was_asked_for(store):
    job = store.add(ASKED, {"a.png": b"x"}, nothing)
    assert store.get(job.id) == job and job.asked == ASKED and job.status == "queued"
    assert (store.folder_of(job.id) / "a.png").read_bytes() == b"x"


def test_the_queue_is_bounded_and_in_order(store):
    first, second = (store.add(ASKED, {}, nothing) for _ in range(2))
    with pytest.raises(QueueFull):
        store.add(ASKED, {}, nothing)
    assert [store.place(job) for job in (first, second)] == [1, 2]
    assert store.claim().id == first.id and store.claim().id == second.id and store.claim() is None
    assert len(list((store.folder / "files").iterdir())) == 2  # the refused job left nothing


def test_the_first_of_two_ends_counts(store):
    job = store.add(ASKED, {}, nothing)
    assert store.finish(job.id, "completed") is None  # nobody has begun it
    store.claim()
    assert store.finish(job.id, "failed", "a sentence").error == "a sentence"
    assert store.finish(job.id, "completed") is None and store.get(job.id).status == "failed"
    assert not store.cancel_queued(job.id) and store.delete(job.id) and store.get(job.id) is None
    assert not store.folder_of(job.id).exists()


def test_what_is_refused_leaves_nothing(store):
    def check(asked, folder):
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        store.add(ASKED, {"a.png": b"x"}, check)
    assert not list((store.folder / "files").iterdir()) and not store.list()


def test_one_server_a_folder(store):
    with pytest.raises(InputError, match="another process is writing"):
        Store(store.folder)


def test_a_file_that_is_no_queue(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"something else entirely" * 50)
    with pytest.raises(InputError, match="is no queue of MindSora"):
        Store(tmp_path)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"prompts": ("a",) * 65}, "65 prompts"),
        ({"seeds": range(17)}, "17 seeds"),
        ({"prompts": ("a" * 4001,)}, "4001"),
    ],
)
def test_limits(values, words):
    with pytest.raises(InputError, match=words):
        Asked("nano", **values)


@pytest.mark.parametrize("host, local", [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)])
def test_beyond_localhost_a_token_is_needed(host, local, monkeypatch):
    assert is_local(host) == local
    monkeypatch.delenv("MINDSORA_TOKEN", raising=False)
    if local:
        assert token_for(host) is None
    else:
        with pytest.raises(InputError, match="set MINDSORA_TOKEN"):
            token_for(host)
    monkeypatch.setenv("MINDSORA_TOKEN", "a long enough token")
    assert token_for(host) == "a long enough token"
    monkeypatch.setenv("MINDSORA_TOKEN", "short")
    with pytest.raises(InputError, match="5 characters"):
        token_for(host)


def answer(guard: Guard, path: str = "/", body: bytes = b"", **headers: str) -> int:
    """The status of a POST."""
    named = {"host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in named.items()],
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 200 or json.loads(sent[1]["body"])["error"]["message"]
    return sent[0]["status"]


async def application(scope, receive, send):
    message = await receive()
    await send({"type": "http.response.start", "status": 499 if message["type"] == "http.disconnect" else 200})
    await send({"type": "http.response.body", "body": b'{"error": {"message": "the client is gone"}}'})


@pytest.mark.parametrize(
    "host, token, headers, status",
    [
        ("127.0.0.1", None, {}, 200),
        ("127.0.0.1", None, {"host": "[::1]:8000"}, 200),
        ("127.0.0.1", None, {"host": "evil.example"}, 403),
        ("127.0.0.1", None, {"host": ""}, 403),
        ("127.0.0.1", None, {"origin": "http://evil.example"}, 403),
        ("127.0.0.1", None, {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, 200),
        ("127.0.0.1", None, {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9000"}, 403),
        ("127.0.0.1", None, {"origin": "null"}, 403),
        ("0.0.0.0", "t", {"host": "video.example"}, 401),
        ("0.0.0.0", "t", {"host": "video.example", "authorization": "Bearer t"}, 200),
        ("0.0.0.0", "t", {"host": "video.example", "authorization": "Bearer tt"}, 401),
        ("0.0.0.0", "t", {"host": "video.example", "authorization": "Basic t"}, 401),
        ("0.0.0.0", "t", {"host": "video.example", "cookie": "mindsora_token=t"}, 200),
        ("0.0.0.0", "t", {"host": "video.example", "cookie": "mindsora_token=\xe9;;="}, 401),
        ("127.0.0.1", None, {"content_length": "11"}, 413),
        ("127.0.0.1", None, {"content_length": "-1"}, 413),
    ],
)
def test_guard(host, token, headers, status):
    assert answer(Guard(application, host, token, largest=10), **headers) == status


def test_open_paths_and_bodies_without_a_length():
    guard = Guard(application, "0.0.0.0", "t", largest=10)
    assert answer(guard, "/health") == 200 and answer(guard, "/healthy") == 401
    assert answer(guard, "/health", b"x" * 11) == 499


@pytest.mark.parametrize(
    "options, words",
    [
        (["--queue", "0"], "at least 1"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--stalled-after", "0"], "above 0"),
        (["--profile", "x"], "mindsora generate --profile"),
        (["--devices", "0", "--device-id", "1"], "either --devices or --device-id"),
        (["--devices", "a"], "whole numbers"),
        (["--host", "0.0.0.0"], "set MINDSORA_TOKEN"),
        (["--model", "none_such"], "none_such"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "studio"])
def test_refused_options(command, options, words, capsys, monkeypatch):
    monkeypatch.delenv("MINDSORA_TOKEN", raising=False)
    assert cli.main([command, *options]) == 2
    assert words in capsys.readouterr().err
