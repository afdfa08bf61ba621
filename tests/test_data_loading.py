"""Batches from worker processes: equal for any number of workers, from any step; bad files replaced; a quick stop."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from clip_files import annotate, bikes, record, write

from mindsora import cli
from mindsora.data import loading
from mindsora.data.check import check
from mindsora.data.clips import open_clips
from mindsora.data.collate import collate
from mindsora.data.grouped import GroupedOrder
from mindsora.data.loading import generator, load
from mindsora.data.settings import VideoData
from mindsora.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six wide and four tall clips; two of the wide ones are no videos."""
    folder, records = tmp_path_factory.mktemp("clips"), []
    frames = bikes()[:45]
    for number in range(6):
        wide = frames[:, :96, 16 * number : 16 * number + 128]
        write(folder / f"wide{number}.mp4", wide)
        records.append(record(f"wide{number}.mp4", wide, caption=[f"Wide {number}", "A bike"]))
    for number in range(4):
        tall = frames[:, :128, 32 * number : 32 * number + 96]
        write(folder / f"tall{number}.mp4", tall)
        records.append(record(f"tall{number}.mp4", tall, caption=f"Tall {number}"))
    (folder / "wide1.mp4").write_bytes(b"noise" * 100)
    (folder / "wide4.mp4").unlink()
    annotate(folder, records)
    return folder


def settings(folder, **changes):
    keys = {"batch": 2, "max_pixels": 128**2, "min_pixels": 64**2, "fps": 25.0, "min_bucket_batches": 0}
    return VideoData(str(folder / "merge.txt"), 33, **keys | changes)


def expected_batch(clips, order, step, seed):
    """A batch made here, clip by clip; bad clips are replaced by draws from the sample's own generator."""
    videos, indices, captions = [], [], []
    for place, index in enumerate(order(step)):
        rng = generator(seed, step, place, "video")
        while True:
            try:
                videos.append(clips.video(int(index), rng))
                break
            except InputError:
                index = rng.choice([i for i in range(len(clips)) if clips.bucket(i) == clips.bucket(int(index))])
        indices.append(int(index))
        captions.append(clips.caption(int(index), generator(seed, step, place, "caption")))
    return collate(videos, clips.data.stride)[0], indices, captions


def test_batches_depend_on_seed_and_step_alone(folder, capsys):
    clips = open_clips(settings(folder), "v1.5")
    order = GroupedOrder(clips.buckets, 2)
    assert order.steps_per_epoch == 5
    # The decoders used here must not make the forked workers hang.
    expected = [expected_batch(clips, order, step, 7) for step in range(6)]
    batches = dict(load(clips, order, range(6), 2, seed=7))
    assert list(batches) == list(range(6))
    for step, batch in batches.items():
        video, indices, captions = expected[step]
        assert (batch.video == video).all() and batch.captions == captions and batch.mask is None
        assert batch.indices.tolist() == indices and len({clips.bucket(i) for i in indices}) == 1
    failures = [message for batch in batches.values() for message in batch.failures]
    assert {name for name in ("wide1", "wide4") if any(name in message for message in failures)} == {"wide1", "wide4"}
    assert capsys.readouterr().out.count("data: skipped") == 2  # each file once
    for step, batch in load(clips, order, range(4, 6), 1, seed=7):  # resumed, in a thread
        assert (batch.video == batches[step].video).all() and batch.captions == batches[step].captions


@pytest.mark.full
def test_clips_of_all_buckets_in_one_batch(folder):
    clips = open_clips(settings(folder, grouped=False), "v1.5")
    wide, tall = clips.buckets.index("33x96x128"), clips.buckets.index("33x128x96")
    ((_, batch),) = load(clips, lambda step: np.array([wide, tall]), range(1), 1)
    assert batch.video.shape == (2, 33, 128, 128, 3) and batch.mask.shape == (2, 5, 16, 16)
    assert batch.mask[0, :, :12].all() and not batch.mask[0, :, 12:].any() and batch.mask[1, :, :, :12].all()
    assert not batch.video[0, :, 96:].any() and not batch.video[1, :, :, 96:].any()


def test_a_bucket_of_bad_files_is_an_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"noise")
    annotate(tmp_path, [record("a.mp4", bikes()[:40, :96, :128])])
    clips = open_clips(settings(tmp_path, batch=1), "v1.5")
    with pytest.raises(InputError, match=r"11 clips of one bucket cannot be read.*a\.mp4"):
        list(load(clips, GroupedOrder(clips.buckets, 1), range(1), 1))


def test_a_slow_clip_is_a_bad_one():
    start = time.monotonic()
    with pytest.raises(InputError, match=r"took longer than 0\.05 seconds"):
        with loading.limited(0.05):
            while time.monotonic() < start + 10:
                time.sleep(0.01)
    assert time.monotonic() < start + 10
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_line_on_the_speed(folder, capsys, monkeypatch):
    monkeypatch.setattr(loading, "REPORT_SECONDS", 0)
    clips = open_clips(settings(folder), "v1.5")
    tall = clips.buckets.index("33x128x96")
    list(load(clips, lambda step: np.array([tall, tall + 1]), range(3, 5), 1))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["data: step 4", "data: step 5"]
    assert "clips/s" in lines[0] and lines[0].endswith("0 unreadable")


def test_check_reports_what_training_will_meet(folder):
    report = check(settings(folder, workers=1, min_bucket_batches=2), "v1.5", folder / "sheet.png")
    # 5 latent frames of 6 x 8 tokens
    assert report.buckets == [("33x96x128", 6, 240, 3), ("33x128x96", 4, 240, 2)]
    assert (report.steps, report.clips, report.dropped) == (5, 10, [])
    assert len(report.unreadable) == 2 and "wide1" in report.unreadable[0] and "wide4" in report.unreadable[1]
    assert report.lines()[1].split() == ["33x96x128", "6", "240", "3"]
    assert report.lines()[3] == "10 clips, 5 steps per epoch"
    assert (folder / "sheet.png").stat().st_size > 10_000
    fewer = check(settings(folder, workers=1, min_bucket_batches=3), "v1.5")
    assert fewer.clips == 6 and "4 its bucket has too few clips (rare_bucket)" in fewer.dropped[0]


def test_the_command_checks_the_files_of_a_recipe(folder, capsys):
    recipe = folder / "recipe.yaml"
    data = "frames: 33, size: [96, 128], max_pixels: null, batch: 2, fps: 25, workers: 1, min_bucket_batches: 0"
    recipe.write_text(
        f"base: {ROOT / 'recipes/vae/base.yaml'}\ndata: {{{data}}}\nrun: {{steps: 1, out: none, export: none}}\n"
    )
    assert cli.main(["data", "check", str(folder / "merge.txt"), "--recipe", str(recipe)]) == 1  # two unreadable files
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["33x96x128", "10", "432", "5"]  # 9 latent frames of 6 x 8 tokens
    assert [line.split(":")[0] for line in lines[2:]] == ["10 clips, 5 steps per epoch", "unreadable", "unreadable"]
    assert cli.main(["data", "check", str(folder / "merge.txt"), "--recipe", str(recipe), "--cards", "0"]) == 2


@pytest.mark.full
def test_check_finds_a_file_that_is_shorter_than_its_record(tmp_path):
    frames = bikes()[:70, :96, :128]
    write(tmp_path / "a.mp4", frames[:50])
    annotate(tmp_path, [record("a.mp4", frames)])
    (message,) = check(settings(tmp_path, workers=1, batch=1), "v1.5").unreadable
    assert "a.mp4" in message and "ends before frame 69" in message


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_training_and_workers(folder, number):
    """The signal reaches the whole group, as Ctrl-C in a terminal does."""
    with program(folder) as process:
        os.killpg(process.pid, number)
        ended(process)


@pytest.mark.full
def test_a_killed_worker_ends_training(folder):
    """As when the system runs out of memory."""
    with program(folder) as process:
        for pid in set(members(process.pid)) - {process.pid}:
            os.kill(pid, signal.SIGKILL)
        ended(process)


@contextmanager
def program(folder):
    """A program that has loaded three batches in two worker processes and goes on."""
    code = f"""
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        from mindsora.data.clips import open_clips
        from mindsora.data.grouped import GroupedOrder
        from mindsora.data.loading import load
        from mindsora.data.settings import VideoData
        data = VideoData({str(folder / "merge.txt")!r}, 33, batch=2, max_pixels=128**2, min_pixels=64**2, fps=25.0,
                         min_bucket_batches=0)
        clips = open_clips(data, "v1.5")
        for step, batch in load(clips, GroupedOrder(clips.buckets, 2), range(100_000), 2):
            print("step", step, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        while not process.stdout.readline().startswith("step 2"):
            assert process.poll() is None
        yield process
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def ended(process):
    """The process ends with an error, and so do its children."""
    assert process.wait(60) != 0
    for _ in range(100):
        if not members(process.pid):
            break
        time.sleep(0.1)
    assert not members(process.pid)


def members(group: int) -> list[int]:
    """The living processes of a session."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == group and state != "Z":
            alive.append(int(stat.parent.name))
    return alive
