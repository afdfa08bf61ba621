"""Long video: windows that continue each other, the frames kept between them, and the report beside the file."""

import json
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pytest
import tiny_pipeline

from mindsora import cli, manifest
from mindsora.errors import InputError
from mindsora.media import read_video
from mindsora.pipelines.drift import Drift
from mindsora.pipelines.given_frames import given_frames
from mindsora.pipelines.long_video import LongVideo, stream
from mindsora.pipelines.request import Request
from mindsora.shapes import Tiling
from mindsora.zoo import ModelIndex

RELEASED = Path(tiny_pipeline.__file__).parents[1] / "mindsora/released"
INDEX = ModelIndex.read(RELEASED / "v1_3" / "any93x640x640_i2v")
SIZE = (29, 16, 32)


class FakePipeline:
    """Each window repeats its given frames and continues their count: frame t of a video has level t."""

    def __init__(self, piece: int = 7):
        self.requests, self.piece = [], piece
        self.alive, self.most = WeakValueDictionary(), 0

    def sample(self, requests, callback_on_step_end=None):
        self.count = len(requests)
        for request in requests:
            self.requests.append(request)
            yield request

    def decode_chunks(self, request, tile):
        assert tile is request.tile
        first = 0 if request.given is None else int(request.given.pixels[0, 0, 0, 0])
        for start in range(0, request.size[0], self.piece):
            levels = np.arange(first + start, first + min(start + self.piece, request.size[0]))
            piece = np.empty((len(levels), *request.size[1:], 3), np.uint8)
            piece[:] = levels[:, None, None, None]
            self.alive[id(piece)] = piece
            self.most = max(self.most, len(self.alive))
            yield piece
            del piece


def long_video(duration, prompts="a train", overlap=None, given=None, noise_strength=0.0, seed=3):
    request = Request.of(INDEX, prompts, seed=seed, num_frames=SIZE[0], height=SIZE[1], width=SIZE[2])
    return LongVideo.lasting(INDEX, request.showing(INDEX, given), duration, overlap, noise_strength)


@pytest.mark.parametrize(
    "frames, overlap, windows",
    [
        (1, 5, 1),
        (29, 5, 1),
        (30, 5, 2),
        (53, 5, 2),
        (54, 5, 3),
        (100, 1, 4),
        (60, 28, 32),
    ],
)
def test_every_frame_once_and_in_order(frames, overlap, windows):
    pipe, drift = FakePipeline(), Drift()
    video = long_video(frames / 18, overlap=overlap)
    levels = np.concatenate([piece[:, 0, 0, 0] for piece in stream(pipe, video, drift)])
    np.testing.assert_array_equal(levels, np.arange(frames))
    assert (video.windows, len(pipe.requests), pipe.count) == (windows,) * 3
    report = drift.report()
    starts = [0, *range(29, 29 + (windows - 1) * (29 - overlap), 29 - overlap)]
    assert [window["frames"] for window in report["windows"]] == np.diff([*starts, frames]).tolist()
    assert all(window["border_difference"] == 1 for window in report["windows"][1:])  # no frame twice, none missing


@pytest.mark.parametrize("piece", [1, 4, 7, 29])
def test_windows_are_given_the_last_frames_of_the_one_before(piece):
    pipe = FakePipeline(piece)
    list(stream(pipe, long_video(77 / 18, overlap=5), Drift()))
    first, *later = pipe.requests
    assert first.given is None and len(later) == 2
    for number, request in enumerate(later, 1):
        assert request.given.times == (0, 1, 2, 3, 4) and request.given.task == "continuation"
        assert request.given.size == request.size == SIZE
        assert request.given.pixels.shape == (5, 16, 32, 3)
        np.testing.assert_array_equal(request.given.pixels[:, 3, 7, 1], np.arange(5) + number * 24)


def test_memory_does_not_grow_with_length():
    """At most two pieces of frames exist at once, for any length of the video."""
    for seconds in (5, 200):
        pipe, count = FakePipeline(), 0
        for piece in stream(pipe, long_video(seconds), Drift()):
            count += len(piece)
            del piece
        assert count == seconds * 18 and pipe.most <= 2


def test_every_window_in_tiles():
    request = Request.of(INDEX, "a train", num_frames=SIZE[0], height=SIZE[1], width=SIZE[2], tile=16)
    pipe = FakePipeline()
    list(stream(pipe, LongVideo.lasting(INDEX, request, 3), Drift()))
    assert {window.tile for window in pipe.requests} == {Tiling(16)}


@pytest.mark.parametrize("fps", [18, 23.976, 29.97, 0.7])
@pytest.mark.parametrize("duration", [1.5, 59.99, 3599.99, 3600])
def test_what_is_recorded_can_be_asked_for_again(fps, duration):
    index = replace(INDEX, fps=fps)
    video = LongVideo.lasting(index, Request.of(index, "a train"), duration)
    told = video.record(index)
    assert LongVideo.lasting(index, Request.of(index, "a train"), told["duration"], told["overlap"]) == video


def test_prompts_share_the_windows_in_order():
    for prompts, shots in (
        ("a", [0] * 6),
        ("ab", [0, 0, 0, 1, 1, 1]),
        ("abcd", [0, 0, 1, 2, 2, 3]),
        ("abcdef", [0, 1, 2, 3, 4, 5]),
    ):
        video = long_video((29 + 5 * 24) / 18, list(prompts))
        assert video.windows == 6 and [video.shot(number) for number in range(6)] == shots
        assert [video.window(i, None).prompts[0] for i in range(6)] == [prompts[shot] for shot in shots]


def test_noise_of_every_window_is_its_own():
    """The first window is the plain clip of this seed; no window shares noise with another window or the next seed."""
    seeds = [[long_video(20, seed=seed).window_seed(number) for number in range(20)] for seed in (3, 4)]
    assert [row[0] for row in seeds] == [3, 4] and len({*seeds[0], *seeds[1]}) == 40
    assert all(0 <= seed < 2**32 for seed in seeds[0])
    video = long_video(5, noise_strength=0.1)
    assert [video.window(i, None).noise_strength for i in range(2)] == [0.0, 0.1]  # the first has no given frames
    assert long_video(5).window(0, None) == Request.of(
        INDEX, "a train", seed=3, num_frames=SIZE[0], height=SIZE[1], width=SIZE[2]
    )


def test_what_is_given_belongs_to_the_first_window():
    given = given_frames(SIZE, 18, [(np.full((*SIZE[1:], 3), 9, np.uint8), 0)])
    pipe = FakePipeline()
    frames = np.concatenate(list(stream(pipe, long_video(3, given=given, noise_strength=0.1), Drift())))
    assert pipe.requests[0].given is given and pipe.requests[0].noise_strength == 0.1
    np.testing.assert_array_equal(frames[:, 0, 0, 0], np.arange(9, 9 + 54))


@pytest.mark.parametrize("frames, overlap", [(93, 9), (29, 5), (9, 5), (5, 1), (61, 5), (77, 9)])
def test_default_overlap(frames, overlap):
    """The overlap is whole latent frames, about an eighth of a window, and leaves at least one latent frame to make."""
    request = Request.of(INDEX, "a", num_frames=frames)
    assert LongVideo.lasting(INDEX, request, 10).overlap == overlap


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"duration": 0}, ["duration = 0", "nearest legal: 0.056"]),
        ({"duration": -3}, ["duration = -3", "3600"]),
        ({"duration": float("nan")}, ["duration = nan"]),
        ({"duration": 1e6}, ["nearest legal: 3600"]),
        ({"duration": 10, "overlap": 0}, ["overlap = 0", "1 to 28", "nearest legal: 1"]),
        ({"duration": 10, "overlap": 29}, ["overlap = 29", "nearest legal: 28"]),
        ({"duration": 10, "noise_strength": 2}, ["noise_strength = 2", "nearest legal: 1"]),
        ({"duration": 3, "prompts": list("abcd")}, ["4 prompts for 3 windows", "4.28 seconds"]),
    ],
)
def test_bad_requests(arguments, words):
    with pytest.raises(InputError) as error:
        long_video(**arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


# The command, on a tiny random model

WINDOW = ("--num-frames", "5", "--height", "16", "--width", "16", "--steps", "1", "--jit", "off", "--quiet")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline.write_v1_3(tmp_path_factory.mktemp("models") / "i2v", "i2v"))


def test_command(model, tmp_path, monkeypatch, capsys):
    """A video of 12 frames in windows of 5, one shot each from a file, its report, its manifest, and again."""
    monkeypatch.chdir(tmp_path)
    Path("shots.txt").write_text("a red cat\nfog\n")
    arguments = [
        "generate",
        "--prompt-file",
        "shots.txt",
        "--model",
        model,
        "--output",
        "v.mp4",
        "--seed",
        "7",
        "--duration",
        "1.5",
        "--overlap",
        "2",
        *WINDOW,
    ]
    assert cli.main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"shots.txt", "v.mp4", "v.mp4.json", "v.mp4.drift.json"}
    assert read_video("v.mp4")[0].shape == (12, 16, 16, 3)
    report = json.loads(Path("v.mp4.drift.json").read_text())
    assert [(window["frames"], window["prompt"]) for window in report["windows"]] == [
        (5, "a red cat"),
        (3, "a red cat"),
        (3, "fog"),
        (1, "fog"),
    ]
    assert report["file"] == "v.mp4" and report["windows"][0]["seed"] == 7
    assert {"colour", "sharpness", "border_ratio"} <= report["worst"].keys()
    told = manifest.read("v.mp4.json")
    assert told["run"]["drift"] == "v.mp4.drift.json" and told["shapes"]["frames"] == [12, 16, 16, 3]
    assert told["request"]["num_frames"] == 5 and told["request"]["long_video"] == {
        "duration": 1.5,
        "num_frames": 12,
        "windows": 4,
        "overlap": 2,
        "noise_strength": 0.0,
        "prompts": ["a red cat", "fog"],
    }
    assert [text["positive"] for text in told["text"]] == [
        "high quality, high aesthetic, a red cat",
        "high quality, high aesthetic, fog",
    ]
    capsys.readouterr()
    assert cli.main(["rerun", "v.mp4.json", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("identical")


def test_one_frame(model, tmp_path, monkeypatch, capsys):
    """A video of one frame is a picture, and a rerun makes it again."""
    monkeypatch.chdir(tmp_path)
    arguments = ["generate", "fog", "--model", model, "--duration", "0.125", *WINDOW]
    assert cli.main([*arguments, "--output", "v.png"]) == 0
    assert manifest.read("v.png.json")["request"]["long_video"]["num_frames"] == 1
    assert cli.main(["rerun", "v.png.json", "--output", "again.png", "--quiet"]) == 0
    assert Path("again.png").read_bytes() == Path("v.png").read_bytes()
    capsys.readouterr()
    for command in (arguments, ["rerun", "v.png.json"]):
        assert cli.main([*command, "--output", "v.mp4"]) == 2
        assert "'v.mp4' must end in .png" in capsys.readouterr().err


def test_command_refuses(model, tmp_path, monkeypatch, capsys):
    """The command refuses before it loads the model, with one line, and writes nothing."""
    from mindsora import ImageToVideoPipeline, TextToVideoPipeline

    monkeypatch.chdir(tmp_path)
    for pipeline in (ImageToVideoPipeline, TextToVideoPipeline):
        monkeypatch.setattr(pipeline, "from_pretrained", lambda *arguments, **options: pytest.fail("loaded"))
    for arguments, words in (
        (["--duration", "0"], ["duration = 0"]),
        (["--duration", "two"], ["--duration", "'two'"]),
        (["--duration", "2", "--overlap", "5"], ["overlap = 5", "nearest legal: 4"]),
        (["--overlap", "2"], ["--overlap 2", "--duration"]),
        (["--duration", "2", "--num-frames", "1"], ["num_frames = 1", "nearest legal: 5"]),
        (["--duration", "2", "--output", "v.png"], ["v.png", ".mp4"]),
        (["--duration", "2", "--noise-strength", "3"], ["noise_strength = 3"]),
        (["--duration", "2", "--model", "nano", "--num-frames", "9"], ["SUV takes text alone", "nano_i2v"]),
    ):
        assert cli.main(["generate", "a", "--model", model, "--output", "v.mp4", *WINDOW, *arguments]) == 2
        captured = capsys.readouterr()
        assert all(word in captured.err for word in words), captured.err
        assert not captured.out and len(captured.err.splitlines()) == 1 and not list(tmp_path.iterdir())
