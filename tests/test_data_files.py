"""Annotation files and real clips: every container, odd sizes, rotation, variable rate, no sound, cut off, not a video."""

import json
import pickle
import random

import av
import numpy as np
import pytest
from clip_files import SAMPLES, annotate, bikes, record, write
from PIL import Image
from test_media_reading import with_matrix

from mindsora import cli
from mindsora.data.annotations import BadRecord, clip_of, is_picture, read_merge_file, read_records
from mindsora.data.clips import open_clips
from mindsora.data.scan import scan
from mindsora.data.settings import VideoData
from mindsora.errors import InputError
from mindsora.media import probe_video, read_frames, read_video

RECORD = {
    "path": "a.mp4", "cap": ["A dog", "a cat"], "resolution": {"height": 720, "width": 1280}, "num_frames": 100,
    "fps": 24.0, "cut": [17, 117], "crop": [0, 1280, 0, 600], "aes": 5.5,
}  # fmt: skip


def small(folder, **changes):
    """Clips of 33 frames in buckets of up to 128 x 128 pixels."""
    keys = {"max_pixels": 128**2, "min_pixels": 64**2, "aspect": (0.3, 3.0), "fps": 25.0, "min_bucket_batches": 0}
    return VideoData(str(folder / "merge.txt"), 33, **keys | changes)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_containers_hold_the_same_records(tmp_path, suffix):
    from pyarrow import Table, parquet

    records, path = (
        [RECORD, {"path": "b.jpg", "cap": "x", "resolution": {"height": 9, "width": 9}}],
        tmp_path / f"a{suffix}",
    )
    if suffix == ".parquet":
        parquet.write_table(Table.from_pylist([records[0], records[1] | {"cap": ["x"]}]), path)
    else:
        lines = map(json.dumps, records)
        path.write_text("\n\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]")
    first, second = (clip_of(one, tmp_path) for one in read_records(path))
    assert first == (str(tmp_path / "a.mp4"), ("A dog", "a cat"), 720, 1280, 100, 24.0, 17, (0, 1280, 0, 600), 5.5)
    assert first.seen == (600, 1280) and not first.is_picture
    assert second == (str(tmp_path / "b.jpg"), ("x",), 9, 9, 1, 0.0, 0, None, None) and second.is_picture


def test_pickle_is_refused_and_not_read(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(InputError, match="a pickle can run any code"):
        list(read_records(path))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", b"{}", "must hold a list"),
        ("a.json", b"[1, ", "cannot be read"),
        ("a.jsonl", b'{"path": "a.mp4"}\n{"path"\n', "line 2"),
        ("a.json", b"\xff\xfe\x00", "cannot be read"),
        ("a.parquet", b"PAR1", "cannot be read"),
        ("a.csv", b"path,cap", "must be one of .json, .jsonl, .parquet"),
        ("missing.json", None, "do not exist"),
    ],
)
def test_damaged_annotations(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_records(tmp_path / name))
    assert words in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"path": None}, "malformed"),
        ({"path": "a.gif.txt"}, "kind"),
        ({"cap": None}, "caption"),
        ({"cap": []}, "caption"),
        ({"cap": [1]}, "malformed"),
        ({"resolution": None}, "resolution"),
        ({"resolution": {"height": 0, "width": 9}}, "resolution"),
        ({"resolution": {"height": "9", "width": 9}}, "malformed"),
        ({"num_frames": None}, "malformed"),
        ({"fps": None}, "malformed"),
        ({"fps": float("nan")}, "malformed"),
        ({"num_frames": True}, "malformed"),
        ({"crop": [0, 9]}, "malformed"),
        ({"crop": [10, 5, 0, 9]}, "malformed"),
        ({"crop": [0, 1281, 0, 9]}, "malformed"),
        ({"cut": [-1, 5]}, "malformed"),
        ({"cut": "5:9"}, "malformed"),
    ],
)
def test_bad_records_have_a_reason(changes, reason):
    with pytest.raises(BadRecord) as caught:
        clip_of(RECORD | changes, "/data")
    assert caught.value.reason == reason


def test_an_absolute_path_wins_and_suffixes_have_any_case():
    assert clip_of(RECORD | {"path": "/x/A.MP4"}, "/data").path == "/x/A.MP4"
    assert is_picture("A.JPG") and not is_picture("a.mov")


def test_merge_files(tmp_path):
    path = tmp_path / "merge.txt"
    path.write_text("\ufeff# two sets\n\n/a , /a.json\n/b,/text,/b.jsonl\n", encoding="utf-8")
    assert [(str(one.folder), str(one.annotations)) for one in read_merge_file(path)] == [
        ("/a", "/a.json"),
        ("/b", "/b.jsonl"),
    ]
    for content, words in (
        ("/a\n", "line 1"),
        ("#\n/a,b,c,d\n", "line 2"),
        ("/a,\n", "columns"),
        ("# none\n", "no data set"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            read_merge_file(path)
    with pytest.raises(InputError, match="does not exist"):
        read_merge_file(tmp_path / "none.txt")


@pytest.mark.parametrize("name", [pytest.param("bikes.mp4", marks=pytest.mark.full), "carphone_pristine.mp4"])
def test_frames_by_number_equal_the_whole_file(name):
    frames, _ = read_video(SAMPLES / name)
    assert probe_video(SAMPLES / name)[:3] == (*frames.shape[1:3], len(frames))
    for numbers in ([0, 1, 2], [61, 61, 63, 90], [len(frames) - 1]):
        assert (np.stack(read_frames(SAMPLES / name, numbers)) == frames[numbers]).all()
    with pytest.raises(InputError, match=f"ends before frame {len(frames)}"):
        read_frames(SAMPLES / name, [3, len(frames)])


def test_frames_by_number_of_a_variable_rate(tmp_path):
    """Numbers count frames, not time: B frames, several keyframes, gaps of 20 to 200 ms."""
    frames = bikes()[:60, :96, :128]
    times = np.cumsum(np.random.default_rng(0).integers(20, 200, 60))
    path = write(tmp_path / "a.mkv", frames, times=times)
    whole, _ = read_video(path)
    assert len(whole) == 60
    for numbers in ([5], [13, 14, 40], list(range(37, 60))):
        assert (np.stack(read_frames(path, numbers)) == whole[numbers]).all()


@pytest.mark.parametrize("name, codec", [("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.m4v", "mpeg4")])
def test_frames_by_number_of_other_kinds(tmp_path, name, codec):
    """AVI has no times of display; VP9 has hidden frames."""
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "10"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in bikes()[:30, :64, :64]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    whole, _ = read_video(tmp_path / name)
    for numbers in ([0, 3], [4, 17, 29], [29]):
        assert (np.stack(read_frames(tmp_path / name, numbers)) == whole[numbers]).all()
    assert probe_video(tmp_path / name).num_frames == 30


@pytest.fixture(scope="module")
def odd_clips(tmp_path_factory):
    """Good and bad clips that all claim the bucket of 33 x 96 x 128 (or what their size makes of it)."""
    folder = tmp_path_factory.mktemp("clips")
    frames = bikes()[:40]
    good = {
        "plain.mp4": write(folder / "plain.mp4", frames[:, :192, :256]),
        "odd.mp4": write(folder / "odd.mp4", frames[:, :194, :262]),
        "sound.mp4": write(folder / "sound.mp4", frames[:, :192, :256], sound=True),
        "ten_bit.mp4": write(folder / "ten_bit.mp4", frames[:, :192, :256], pixels="yuv420p10le"),
        "variable.mkv": write(
            folder / "variable.mkv", frames[:, :192, :256], times=np.arange(40) * 40 + np.arange(40) % 3
        ),
    }
    records = [record(name, read_video(path)[0]) for name, path in good.items()]
    write(folder / "turned.mp4", np.ascontiguousarray(frames[:, :256, :192]))
    with_matrix(folder / "turned.mp4", 0, 1, -1, 0)  # the file has 256 rows, a player shows 192
    records.append(record("turned.mp4", frames[:, :192, :256]))
    content = (folder / "plain.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    cut = (folder / "turned.mp4").read_bytes()
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "wrong_size.mp4").write_bytes(cut)
    bad = [record(name, frames[:, :192, :256]) for name in ("cut.mp4", "noise.mp4", "empty.mp4", "missing.mp4")]
    bad.append(record("wrong_size.mp4", frames[:, :256, :192]))
    bad.append(record("short.mp4", bikes()[:60, :192, :256]) | {"cut": [8, 68]})
    (folder / "short.mp4").write_bytes(content)  # 40 of the 68 frames that the record has
    Image.fromarray(frames[0, :194, :260]).save(folder / "still.jpg")
    records.append({"path": "still.jpg", "cap": "A bike", "resolution": {"height": 194, "width": 260}})
    annotate(folder, records + bad)
    return folder


def test_real_clips_of_odd_kinds(odd_clips):
    clips = open_clips(small(odd_clips), "v1.5")
    assert clips.counts() == {"33x96x128": 11, "33x128x96": 1, "1x96x128": 1}
    failed = {}
    for index, clip in enumerate(clips.clips):
        try:
            video = clips.video(index, random.Random(3))
        except InputError as error:
            failed[clip.path.rpartition("/")[2]] = str(error)
            continue
        assert video.dtype == np.float32 and "x".join(map(str, video.shape[:3])) == clips.bucket(index)
        assert -1.3 < video.min() < -0.5 and 0.5 < video.max() < 1.3
    assert failed.keys() == {"cut.mp4", "noise.mp4", "empty.mp4", "missing.mp4", "wrong_size.mp4", "short.mp4"}
    for name, message in failed.items():
        assert name in message
    assert "its record says 192 x 256" in failed["wrong_size.mp4"]
    assert "ends before frame" in failed["short.mp4"]


@pytest.mark.full
def test_a_sample_is_the_cropped_and_resized_file(tmp_path):
    """Spans and crops of the record count: frame 8 on, and the right half of the picture."""
    import torch

    frames = bikes()[:60, :128, :256]
    write(tmp_path / "a.mp4", frames)
    one = record("a.mp4", frames[:41]) | {"cut": [8, 49], "crop": [128, 256, 0, 128]}
    annotate(tmp_path, [one])
    for line, mode in (("v1.5", "bicubic"), ("v1.3", "bilinear")):
        clips = open_clips(small(tmp_path, max_pixels=96**2), line)
        assert clips.bucket(0) == "33x96x96"
        numbers = clips.frame_numbers(0, random.Random(2))
        assert numbers[0] >= 8 and numbers[-1] < 49
        stored = read_video(tmp_path / "a.mp4")[0][numbers][:, :, 128:].transpose(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(
            torch.tensor(stored).double() / 255, (96, 96), mode=mode, align_corners=True, antialias=True
        )
        found = clips.video(0, random.Random(2)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found, 2 * expected - 1, rtol=0, atol=2e-6)  # float32


def test_scan_writes_what_training_reads(tmp_path):
    folder, output = tmp_path / "my clips", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    frames = bikes()[:35, :96, :128]
    write(folder / "a.mp4", frames)
    (folder / "a.txt").write_text("A bike\n\nA road\n", encoding="utf-8")
    write(folder / "deep" / "b.mkv", frames)
    (folder / "deep" / "b.json").write_text('{"caption": "a rider"}')
    Image.fromarray(frames[0]).save(folder / "c.png")
    (folder / "c.json").write_text('["a still"]')
    write(folder / "bare.mp4", frames)
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "broken.txt").write_text("x")
    (folder / "none.jpg").write_bytes(b"x")
    (folder / "none.json").write_text('{"title": 1}')
    result = scan(folder, output)
    assert [one["path"] for one in result.records] == ["a.mp4", "c.png", "deep/b.mkv"]
    assert len(result.skipped) == 3
    for name, message in zip(("bare.txt", "broken.mp4", "none.json"), result.skipped):
        assert name in message
    clips = open_clips(small(output), "v1.5")
    assert [clip.captions for clip in clips.clips] == [("A bike", "A road"), ("a still",), ("a rider",)]
    assert clips.buckets == ["33x96x128", "1x96x128", "33x96x128"]
    assert all(clips.video(i, random.Random(0)).shape[1:] == (96, 128, 3) for i in range(3))


def test_the_commands_say_what_they_did(tmp_path, capsys):
    write(tmp_path / "a.mp4", bikes()[:5, :96, :128])
    (tmp_path / "a.txt").write_text("A bike")
    (tmp_path / "b.mp4").write_bytes(b"x")
    assert cli.main(["data", "scan", str(tmp_path)]) == 0
    skipped, summary = capsys.readouterr().out.splitlines()
    assert skipped.startswith("skipped: ") and "b.mp4" in skipped
    assert summary == f"1 clips, 1 files skipped; wrote {tmp_path / 'merge.txt'}"
    assert cli.main(["data", "check", str(tmp_path / "merge.txt")]) == 2
    assert "needs --recipe" in capsys.readouterr().err
    assert cli.main(["data", "look", "x"]) == 2
    assert "'scan', 'check'" in capsys.readouterr().err


def test_scan_of_nothing(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        scan(tmp_path / "none")
    with pytest.raises(InputError, match="no video and no picture with a caption"):
        scan(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"1 skipped, the first: .*has no caption"):
        scan(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    (tmp_path / "a,b").mkdir()
    with pytest.raises(InputError, match="has a comma"):
        scan(tmp_path / "a,b")
