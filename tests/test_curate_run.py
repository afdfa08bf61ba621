"""Curations of small real files: through every stage to a training, and what faults leave behind."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import curate_clips
import numpy as np
import pytest
from clip_files import SAMPLES, bikes, write
from curate_records import lines

from mindsora.curate import curation, engine, report, stages, writing
from mindsora.curate.decide import decide
from mindsora.curate.judges import parse
from mindsora.curate.stages import SPANS, Plan, wanted
from mindsora.data.annotations import clip_of, read_merge_file, read_records
from mindsora.errors import InputError
from mindsora.files import claimed
from mindsora.media import psnr, read_frames

JUDGE = "def score(frames):\n    return [5 + float(frame.mean()) / 255 for frame in frames]\n"


def here(plan: Plan, names=None) -> None:
    """Run stages in this process, without Ray."""
    for stage in wanted(plan):
        if names is None or stage.name in names:
            for shard in range(engine.shards_of(plan.output)):
                engine.run_shard(plan, stage, shard)


def planned(folder: Path, **more) -> Plan:
    output = folder / "set"
    output.mkdir(exist_ok=True)
    plan = Plan(str(folder / "media"), str(output), **more)
    engine.list_sources(folder / "media", output, 2)
    curation.save(plan)
    return plan


@pytest.fixture
def media(tmp_path):
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


def judge_file(folder: Path, text: str = JUDGE) -> str:
    path = folder / "judge.py"
    path.write_text(text)
    return f"{path}@{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.full
def test_a_film_through_every_stage(tmp_path, media):
    """Two shots, the second with a subtitle: cut at the join, cropped, judged, hashed, captioned by file."""
    one, other = bikes(70)[30:70], curate_clips.covering(curate_clips.shots()[4][:40], 272, 640)
    marked, top = curate_clips.subtitled(np.random.default_rng(1), other)
    write(media / "film.mp4", np.concatenate([one, marked]))
    (media / "film.txt").write_text("The video shows a film")
    plan = planned(
        tmp_path, captioner="files", judges=dict([parse(f"aesthetic={judge_file(tmp_path)}")]), licence="CC0"
    )
    here(plan)
    decide(plan)
    first, second = read_records(tmp_path / "set/annotations.jsonl")
    assert abs(first["num_frames"] - 40) <= 1 and second["cut"] == [first["num_frames"], 80]
    assert "crop" not in first and top - 12 <= second["crop"][3] <= top + 3
    assert first["cap"] == ["A film"] and first["licence"] == "CC0" and first["facts"]["codec"] == "h264"
    assert first["scores"]["aesthetic"]["judge"].startswith("judge.py ")
    assert second["scores"]["recheck"]["value"] != second["scores"]["motion"]["value"]
    (merge,) = read_merge_file(writing.write_clips(plan))
    clips = [clip_of(row, merge.folder) for row in read_records(merge.annotations)]
    assert [clip.num_frames for clip in clips] == [first["num_frames"], second["num_frames"]]
    film, own = read_frames(media / "film.mp4", [60])[0], read_frames(clips[1].path, [60 - second["cut"][0]])[0]
    assert own.shape == (clips[1].height, clips[1].width, 3)
    assert psnr(own[None, : second["crop"][3]], film[None, : second["crop"][3]]) > 30  # coded twice
    page = report.report(plan).read_text()
    assert "skipped: no judge (--judge technical=FILE.py@SHA256)" in page and "data:image/png;base64," in page
    assert page.count("<svg") >= 4


def test_a_stage_leaves_what_is_computed(tmp_path, media, monkeypatch):
    write(media / "film.mp4", bikes(70)[30:64])
    plan = planned(tmp_path)
    here(plan, ("probe", "slice", "cuts"))
    assert [r["num_frames"] for r in engine.load(plan, 0)] == [34]
    monkeypatch.setattr(stages.spans, "probe", None)  # calling it again would fail
    here(plan, ("probe", "slice", "cuts"))


def test_a_changed_file_is_an_error_and_new_ones_come_behind(tmp_path, media):
    for name in "bcd":
        (media / f"{name}.mp4").write_bytes(b"x")
    planned(tmp_path)
    (media / "a.mp4").write_bytes(b"y")
    planned(tmp_path)
    listed = {row["path"]: row["shard"] for row in lines(tmp_path / "set" / engine.SOURCES)}
    assert listed == {"b.mp4": 0, "c.mp4": 0, "d.mp4": 1, "a.mp4": 2}
    (media / "b.mp4").write_bytes(b"longer")
    with pytest.raises(InputError, match="'b.mp4' has changed"):
        planned(tmp_path)


def test_two_runs_on_one_output_refuse_each_other(tmp_path, media):
    plan = Plan(str(media), str(tmp_path / "set"))
    (tmp_path / "set").mkdir()
    with claimed(tmp_path / "set" / curation.LOCK), pytest.raises(InputError, match="another process is writing"):
        curation.run(plan)


def test_hostile_files_are_named(tmp_path, media):
    """In bounded time and memory, and the others go on."""
    good = write(media / "good.mp4", bikes(70)[30:66])
    whole = good.read_bytes()
    (media / "empty.mp4").write_bytes(b"")
    (media / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (media / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(100_000))
    (media / "two\nlines.mp4").write_bytes(b"no video")
    (media / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    # 100,000 x 100,000 pixels in the headers of track and picture
    huge = whole.replace((640 << 16).to_bytes(4, "big") + (272 << 16).to_bytes(4, "big"), b"\xff\xff\0\0" * 2)
    huge = huge.replace((640).to_bytes(2, "big") + (272).to_bytes(2, "big"), b"\xff\xff" * 2)
    assert huge != whole
    (media / "huge.mp4").write_bytes(huge)
    bomb = b"GIF89a" + b"\xff\xff\xff\xff\x00\x00\x00" + b"," + b"\0\0\0\0\xff\xff\xff\xff\0" + b"\x02\x02\x4c\x01\x00;"
    (media / "bomb.mp4").write_bytes(bomb)
    os.mkfifo(media / "endless.mp4")
    (media / "gone.mp4").symlink_to(media / "nowhere")
    plan = planned(tmp_path)
    here(plan, ("probe", "slice", "cuts"))
    records = [record for shard in range(engine.shards_of(plan.output)) for record in engine.load(plan, shard)]
    failed = {record["path"]: record["failed"]["message"] for record in records if "failed" in record}
    bad = {
        "empty.mp4",
        "truncated.mp4",
        "noise.mkv",
        "two\nlines.mp4",
        "list.mp4",
        "bomb.mp4",
        "endless.mp4",
        "gone.mp4",
    }
    assert bad <= set(failed) <= bad | {"huge.mp4"}  # the stream's own header may overrule the container's
    assert all(failed.values()) and "good.mp4" not in failed


def test_a_stage_ends_in_time(tmp_path, media, monkeypatch):
    write(media / "film.mp4", bikes(70)[30:64])
    plan = planned(tmp_path, seconds=0.3)
    monkeypatch.setattr(stages.spans, "probe", lambda *_: time.sleep(60))
    here(plan, ("probe",))
    (record,) = lines(engine.file_of(plan, SPANS[0], 0))
    assert "took longer than 0.3 seconds" in record["failed"]["message"]


@pytest.mark.full
def test_a_clip_of_which_two_workers_died_is_given_up(tmp_path, media):
    write(media / "film.mp4", bikes(70)[30:64])
    plan = planned(tmp_path)
    (stage,) = (stage for stage in SPANS if stage.name == "probe")
    record = {"id": "film.mp4", "path": "film.mp4", "source": "", "licence": "", "scores": {}}
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom mindsora.curate import curation, engine, spans\n"
        "spans.probe = lambda *_: os._exit(9)\nplan = curation.opened(sys.argv[1])\n"
        "engine.run_shard(plan, engine.SPANS[0], 0)\n"
    )
    for _ in range(engine.TRIES):
        assert subprocess.run([sys.executable, "-c", program, plan.output]).returncode == 9
    (left,) = engine.attempt(plan, stage, [record])
    assert left["failed"]["message"] == "2 workers died of it in the stage probe"


@pytest.mark.parametrize(
    "text, words",
    [
        ("beauty=judge.py", "one of aesthetic, technical, watermark, unsafe"),
        ("aesthetic=none.py", "is no Python file"),
        ("aesthetic=nudenet", "nudenet judges unsafe alone"),
        ("aesthetic=JUDGE", "the stated one is missing"),
        ("aesthetic=JUDGE@" + "0" * 64, "the stated one is 000000000000"),
    ],
)
def test_judges_come_with_their_checksum(tmp_path, text, words):
    path = judge_file(tmp_path).split("@")[0]
    with pytest.raises(InputError, match=words):
        parse(text.replace("JUDGE", path))


@pytest.mark.full
def test_judges_of_packages(media):
    """NudeNet sees nothing exposed on bicycles; the reader of words finds an agency's name laid over them."""
    from mindsora.evaluate.marks import overlaid

    clip = bikes(70)[30:66:4]
    write(media / "plain.mp4", clip)
    write(media / "marked.mp4", overlaid(clip, "shutterstock", "centre", 0.6, np.random.RandomState(0)))
    size = {"height": 272, "width": 640}
    values = {}
    for name, path in [("unsafe", "plain"), ("watermark", "plain"), ("watermark", "marked")]:
        record = {"id": path, "path": f"{path}.mp4", "start": 0, "num_frames": 9, "resolution": size, "scores": {}}
        judged = dict([parse(f"{name}={'nudenet' if name == 'unsafe' else 'words'}")])
        (stage,) = (stage for stage in stages.SCORES if stage.name == name)
        (record,) = stage([record], Plan(str(media), "", judges=judged))
        values[name, path] = record["scores"][name]["value"]
    assert values["unsafe", "plain"] < 0.5
    assert values["watermark", "plain"] == 0 and values["watermark", "marked"] == 1


class Captioner(BaseHTTPRequestHandler):
    """Answers as an endpoint in OpenAI's form does, with a prefix and the number of pictures."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = body["messages"][0]["content"]
        pictures = [part for part in parts if part["type"] == "image_url"]
        text = f"The video shows {len(pictures)} pictures\nfor {body['model']}"
        answer = {"choices": [{"message": {"content": text if self.path == "/v1/chat/completions" else None}}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


def test_captions_from_an_endpoint(media):
    write(media / "film.mp4", bikes(70)[30:64])
    server = HTTPServer(("127.0.0.1", 0), Captioner)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    record = {"id": "film", "path": "film.mp4", "start": 0, "num_frames": 34, "scores": {}}
    record |= {"resolution": {"height": 272, "width": 640}}
    (stage,) = (stage for stage in stages.SCORES if stage.name == "captions")
    try:
        results = [
            stage([record], Plan(str(media), "", captioner=f"{address}/{version}", model="qwen"))[0]["scores"][
                "captions"
            ]
            for version in ("v1", "v2")
        ]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert results[0]["value"] == ["8 pictures for qwen"]
    assert "answered 'None', which is no text" in results[1]["failed"]


def command(folder: Path, *more: str) -> list[str]:
    folders = [str(folder / "media"), "--output", str(folder / "set"), "--shard", "1"]
    return [sys.executable, "-m", "mindsora.cli", "curate", "run", *folders, *more]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_bytes_of_an_unbroken_one(tmp_path, media):
    """On Ray: killed while it works, then run again; the same files in this process without Ray."""
    for number in range(6):
        write(media / f"{number}.mp4", np.roll(bikes(70)[30:70], 40 * number, axis=2))
        (media / f"{number}.txt").write_text("Bikes")
    run = subprocess.Popen(command(tmp_path, "--captions", "files"), stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(tmp_path.glob("set/stages/motion-*/*.jsonl")):
        assert run.poll() is None
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "set/annotations.jsonl").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("set/stages/*/*.jsonl")}
    done = subprocess.run(command(tmp_path, "--captions", "files"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in before.items() if "recheck" not in str(path))
    twin = tmp_path / "twin"
    twin.mkdir()
    plan = Plan(str(media), str(twin), captioner="files")
    engine.list_sources(media, twin, 1)
    here(plan)
    decide(plan)
    assert (twin / "annotations.jsonl").read_bytes() == (tmp_path / "set/annotations.jsonl").read_bytes()


@pytest.mark.slow
def test_a_file_that_kills_its_workers_is_quarantined_by_ray(tmp_path, media):
    write(media / "good.mp4", bikes(70)[30:70])
    text = "import os\ndef score(frames):\n    if len(frames) and frames.shape[1] == 100: os._exit(9)\n    return 5.0\n"
    write(media / "poison.mp4", curate_clips.covering(bikes(70)[30:66], 100, 240))
    done = subprocess.run(command(tmp_path, "--judge", f"aesthetic={judge_file(tmp_path, text)}"), capture_output=True)
    assert done.returncode == 0, done.stderr
    (kept,) = lines(tmp_path / "set/annotations.jsonl")
    (gone,) = lines(tmp_path / "set/dropped.jsonl")
    assert kept["path"] == "good.mp4" and gone["path"] == "poison.mp4"
    assert gone["reason"] == "aesthetic: 2 workers died of it in the stage aesthetic"


@pytest.mark.slow
def test_a_cluster_of_two_nodes_survives_the_loss_of_one(tmp_path, media):
    """Two raylets on this machine; one is killed in the middle. Nothing is lost and nothing doubled."""
    import ray
    from ray.cluster_utils import Cluster

    names = [f"{number}.mp4" for number in range(6)]
    for number, name in enumerate(names):
        write(media / name, np.roll(bikes(70)[30:70], 24 * number, axis=2))
    store = {"object_store_memory": engine.OBJECT_STORE}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    try:
        other = cluster.add_node(num_cpus=1, **store)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        plan = Plan(str(media), str(tmp_path / "set"))
        killer = threading.Thread(target=_kill, args=(cluster, other, tmp_path))
        killer.start()
        curation.run(plan, shard=1)
        killer.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    rows = lines(tmp_path / "set/annotations.jsonl") + lines(tmp_path / "set/dropped.jsonl")
    assert sorted(row["path"] for row in rows) == sorted(names)
    assert not [row for row in rows if row.get("step") in ("unscored", "unreadable")]


def _kill(cluster, node, folder: Path) -> None:
    """Kill a node without grace once some shards are through the first scores."""
    while len(list(folder.glob("set/stages/motion-*/*.jsonl"))) < 2:
        time.sleep(0.1)
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.slow
def test_from_raw_files_to_a_training_step(tmp_path, media):
    """Real clips through the whole line on Ray; `mindsora data check` accepts the set; a training makes two steps."""
    import tiny_pipeline
    from stage_files import tiny

    from mindsora.data.check import check
    from mindsora.train import train

    for name in ("bikes", "bigbuckbunny"):
        shutil.copy(SAMPLES / f"{name}.mp4", media)
        (media / f"{name}.txt").write_text(f"A clip called {name}")
    done = subprocess.run(command(tmp_path, "--captions", "files"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = [clip_of(record, media) for record in read_records(tmp_path / "set/annotations.parquet")]
    assert len(kept) >= 4 and sum(clip.start > 0 for clip in kept) >= 3
    model = tiny_pipeline.write(tmp_path / "model")
    more = ["data.frames=9", "data.fps=8", "data.aspect=[0.2,2.0]", "data.too_long_factor=20"]
    recipe = tiny("v1_5", "video_1", tmp_path / "set", model, *more)
    checked = check(recipe.data, recipe.line)
    assert checked.clips == len(kept) and not checked.unreadable
    train(recipe)
    assert (tmp_path / "set/model").is_dir()
