"""Given frames of a clip: times, pictures of other sizes, videos to continue."""

import re
from weakref import WeakValueDictionary

import numpy as np
import pytest
from PIL import Image

from mindsora.errors import InputError
from mindsora.media import MAX_PIXELS
from mindsora.pipelines.given_frames import (
    GivenFrames,
    fit_picture,
    frame_number,
    given_frames,
    parse_image,
    read_picture,
)  # fmt: skip

SIZE, FPS, STRIDE = (93, 32, 48), 18, (4, 8, 8)


def picture(level=200, height=32, width=48):
    return np.full((height, width, 3), level, np.uint8)


def given_levels(given):
    """Frame number -> level of the frames that the masked video shows; every other one must be black."""
    video = given.masked_video()
    assert video.shape == (1, 3, *given.size) and video.dtype == np.float32
    shown = {t: float(video[0, :, t].mean() + 1) * 127.5 for t in range(given.size[0]) if (video[0, :, t] != -1).any()}
    return {t: round(level) for t, level in shown.items()}


@pytest.mark.parametrize(
    "times, given, task",
    [
        ([], {}, "t2iv"),
        ([None], {0: 100}, "i2v"),
        ([-1], {92: 100}, "random_temporal"),
        ([None, None], {0: 100, 92: 101}, "transition"),
        ([-1, None], {0: 101, 92: 100}, "transition"),  # without a time: whichever of first and last is free
        ([0, None], {0: 100, 92: 101}, "transition"),
        ([1, 0, "2"], {0: 101, 1: 100, 2: 102}, "continuation"),
        (["1.5s", 4], {4: 101, 27: 100}, "random_temporal"),
    ],
)
def test_pictures_in_their_places(times, given, task):
    images = [(picture(100 + i), time) for i, time in enumerate(times)]
    frames = given_frames(SIZE, FPS, images)
    assert frames.times == tuple(given) and frames.task == task
    assert given_levels(frames) == given
    mask = frames.latent_mask(STRIDE)
    assert mask.shape == (1, 4, 24, 4, 6) and mask.dtype == np.float32
    # by hand: frame 0 is the whole first latent frame; frame 1 + 4k + c is channel c of latent frame k + 1
    expected = np.ones((4, 24))
    for t in given:
        expected[(t - 1) % 4 if t else slice(None), -(-t // 4)] = 0
    np.testing.assert_array_equal(mask[0], np.broadcast_to(expected[..., None, None], mask.shape[1:]))


def test_hidden_is_black_and_given_is_exact():
    rng = np.random.RandomState(0)
    image = rng.randint(0, 256, (32, 48, 3)).astype(np.uint8)
    video = given_frames((5, 32, 48), FPS, [(image, 2)]).masked_video()
    assert (np.delete(video, 2, axis=2) == -1).all()
    np.testing.assert_array_equal(np.rint((video[0, :, 2].transpose(1, 2, 0) + 1) * 127.5), image)  # no resampling
    assert video.min() >= -1 and video.max() <= 1


def test_noise_on_given_frames_alone():
    given = given_frames((9, 32, 48), FPS, [(picture(), None)])
    clean, noisy = given.masked_video(), given.masked_video(noise_strength=0.1, seed=3)
    np.testing.assert_array_equal(noisy[:, :, 1:], clean[:, :, 1:])
    noise = noisy[:, :, 0] - clean[:, :, 0]
    assert noise.std() == pytest.approx(0.1, rel=0.06) and abs(noise.mean()) < 0.006  # 4608 draws: 4 standard errors
    np.testing.assert_array_equal(noisy, given.masked_video(noise_strength=0.1, seed=3))
    assert (noisy != given.masked_video(noise_strength=0.1, seed=4)).any()
    with pytest.raises(InputError, match="noise_strength = 2.*nearest legal: 1"):
        given.masked_video(noise_strength=2)


# Videos


def clip(frames, height=32, width=48):
    return np.stack([picture(10 + t, height, width) for t in range(frames)])


@pytest.mark.parametrize(
    "frames, keep, levels",
    [
        (60, None, range(24, 70)),  # half of 93 frames, the video's last
        (20, None, range(10, 30)),  # a shorter video, all of it
        (20, 5, range(25, 30)),
        (20, 1, range(29, 30)),
    ],
)
def test_a_clip_goes_on_from_the_end_of_a_video(frames, keep, levels):
    given = given_frames(SIZE, FPS, video=clip(frames), keep=keep)
    assert given_levels(given) == dict(enumerate(levels))
    assert given.task == ("i2v" if keep == 1 else "continuation")


@pytest.mark.parametrize(
    "video_fps, levels",
    [
        (18, [26, 27, 28, 29]),
        (18.05, [26, 27, 28, 29]),
        (36, [23, 25, 27, 29]),
        (27, [25, 26, 28, 29]),
        (9, [28, 28, 29, 29]),
    ],
)
def test_video_at_another_rate(video_fps, levels):
    """The last frame stays last; earlier frames are dropped or repeated."""
    given = given_frames(SIZE, FPS, video=clip(20), video_fps=video_fps, keep=4)
    assert list(given_levels(given).values()) == levels


@pytest.mark.parametrize("video_fps", [18, 36, 27, 9])
@pytest.mark.parametrize("frames, keep", [(200, None), (200, 5), (20, None), (20, 1)])
def test_a_video_can_come_frame_by_frame(video_fps, frames, keep):
    """The same frames are given, and only one frame on the way exists at a time, at any size of the video."""
    alive, most = WeakValueDictionary(), []

    def stream():
        for t in range(frames):
            frame = picture(t, 64, 96)
            alive[t] = frame
            most.append(len(alive))
            yield frame
            del frame

    arguments = {"video_fps": video_fps, "keep": keep}
    given = given_frames(SIZE, FPS, video=stream(), **arguments)
    whole = given_frames(SIZE, FPS, video=np.stack([picture(t, 64, 96) for t in range(frames)]), **arguments)
    assert given.times == whole.times
    np.testing.assert_array_equal(given.pixels, whole.pixels)
    assert len(most) == frames and max(most) <= 2


# Pictures of other sizes


def bars(height, width):
    """Red, green, blue from left to right in a wide picture, from top to bottom otherwise."""
    image = np.zeros((height, width, 3), np.uint8)
    for i in range(3):
        if width > height:
            image[:, i * width // 3 : (i + 1) * width // 3, i] = 255
        else:
            image[i * height // 3 : (i + 1) * height // 3, :, i] = 255
    return Image.fromarray(image)


def test_cover_keeps_the_centre():
    wide = fit_picture(bars(60, 180), 60, 60)  # the middle third remains
    assert wide.shape == (60, 60, 3) and (wide[:, 1:-1] == (0, 255, 0)).all()
    high = fit_picture(bars(180, 60), 30, 30)  # and halved
    assert high.shape == (30, 30, 3) and (high[1:-1] == (0, 255, 0)).all()


def test_pad_keeps_everything():
    wide = fit_picture(bars(60, 180), 60, 60, "pad")
    assert (wide[:20] == 0).all() and (wide[40:] == 0).all()
    assert (wide[22:38, 2:18] == (255, 0, 0)).all() and (wide[22:38, 42:58] == (0, 0, 255)).all()


def test_shrinking_is_antialiased():
    """A checkerboard of single pixels becomes gray, not one of its two colours."""
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    small = fit_picture(Image.fromarray(np.stack([board] * 3, -1)), 16, 16)
    np.testing.assert_allclose(small[2:-2, 2:-2].astype(float), 127.5, atol=4)


def test_video_frames_are_fitted_too():
    given = given_frames((9, 16, 16), FPS, video=clip(4, 32, 48), fit="pad")
    assert given.pixels.shape == (4, 16, 16, 3)
    assert (given.pixels[:, 0] == 0).all() and (given.pixels[:, 8] > 9).all()


def test_files(tmp_path):
    image = picture()
    image[:16] = 50
    Image.fromarray(image).save(tmp_path / "a.png")
    given = given_frames(SIZE, FPS, [(tmp_path / "a.png", None)])
    np.testing.assert_array_equal(given.pixels[0], image)
    np.testing.assert_array_equal(given_frames(SIZE, FPS, [(image / 255, None)]).pixels[0], image)

    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: turned by 180 degrees
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "turned.png")), image[::-1, ::-1])

    clear = Image.fromarray(np.dstack([image, np.zeros((32, 48), np.uint8)]))
    assert (np.asarray(read_picture(clear)) == 255).all()
    assert np.asarray(read_picture(Image.fromarray(image[..., 0]))).shape == (32, 48, 3)


# The command line's FILE[@TIME]


@pytest.mark.parametrize(
    "text, parsed",
    [
        ("a.png", ("a.png", None)),
        ("a.png@12", ("a.png", "12")),
        ("a.png@-1", ("a.png", "-1")),
        ("a.png@1.5s", ("a.png", "1.5s")),
        ("me@home/a.png", ("me@home/a.png", None)),
        ("me@home/a.png@3", ("me@home/a.png", "3")),
        ("@3", ("@3", None)),
    ],
)
def test_parse_image(text, parsed):
    assert parse_image(text) == parsed


def test_names_with_an_at(tmp_path):
    path = tmp_path / "a@2"
    Image.fromarray(picture()).save(path, format="PNG")
    assert parse_image(str(path)) == (str(path), None)
    assert parse_image(f"{path}@7") == (str(path), "7")
    with pytest.raises(InputError, match="time 'soon'.*frame number.*1.5s"):
        parse_image(f"{path}@soon")


@pytest.mark.parametrize(
    "time, number",
    [
        (0, 0),
        (92, 92),
        (-1, 92),
        (-93, 0),
        ("5", 5),
        ("-2", 91),
        ("0s", 0),
        ("5.111s", 92),
        ("1s", 18),
        (np.int64(3), 3),
    ],
)
def test_times(time, number):
    assert frame_number(time, 93, 18) == number


@pytest.mark.parametrize(
    "time, words",
    [
        (93, ["time 93", "frames 0 to 92", "nearest legal: 92"]),
        (-94, ["time -94", "nearest legal: -93"]),
        ("120", ["time 120", "nearest legal: 92"]),
        ("5.2s", ["time 5.2s", "0s to 5.111s", "nearest legal: 5.111s"]),
        ("-1s", ["'-1s'", "frame number"]),
        ("soon", ["'soon'"]),
        (1.5, ["1.5", "seconds such as 1.5s"]),
        (True, ["True"]),
    ],
)
def test_bad_times(time, words):
    with pytest.raises(InputError) as error:
        frame_number(time, 93, 18)
    for word in words:
        assert word in str(error.value)


def test_nearest_time_is_legal():
    """The time that the message proposes is legal."""
    for frames, fps in ((93, 18), (17, 8), (29, 23.976), (1, 24)):
        with pytest.raises(InputError) as error:
            frame_number("100s", frames, fps)
        nearest = re.search(r"nearest legal: (\S+)", str(error.value))[1]
        assert frame_number(nearest, frames, fps) == frames - 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"images": [(picture(), 3), (picture(), "3")]}, ["frame 3 is given twice", "1 and 2"]),
        ({"images": [(picture(), None)] * 3}, ["picture 3 of 3", "0 to 92"]),
        ({"images": [(picture(), 0), (picture(), -1), (picture(), None)]}, ["picture 3 of 3"]),
        ({"images": [(picture(), None)], "video": clip(3)}, ["either"]),
        ({"images": [(picture(), None)], "fit": "stretch"}, ["'stretch'", "cover or pad"]),
        ({"images": [(picture(), None)], "keep": 3}, ["no video"]),
        ({"images": [(picture()[..., 0], None)]}, ["(height, width, 3)", "(32, 48)"]),
        ({"images": [(7, None)]}, ["not int"]),
        ({"images": ["cat.png"]}, ["'cat.png'", "(picture, time)"]),
        ({"images": "cat.png"}, ["'cat.png'", "(picture, time)"]),
        ({"images": ("cat.png", 0)}, ["'cat.png'", "(picture, time)"]),
        ({"images": [picture()]}, ["ndarray", "(picture, time)"]),
        ({"images": picture()}, ["ndarray", "(picture, time)"]),
        ({"images": [(picture(), 0, 1)]}, ["tuple", "(picture, time)"]),
        ({"images": None}, ["NoneType", "(picture, time)"]),
        ({"images": [("nowhere.png", None)]}, ["'nowhere.png'", "does not exist"]),
        ({"images": [(picture(200, 32, 400), None)]}, ["400 x 32", "too wide", "192 x 32"]),
        ({"images": [(picture(200, 300, 40), None)]}, ["40 x 300", "too high", "40 x 106"]),
        ({"images": [(picture(200, 8, 12), None)]}, ["12 x 8", "at least 16"]),
        ({"video": clip(9), "keep": 10}, ["10 frames", "it has 9", "nearest legal: 9"]),
        ({"video": clip(99), "keep": 93}, ["the clip 93", "nearest legal: 92"]),
        ({"video": clip(9), "keep": 0}, ["nearest legal: 1"]),
        ({"video": clip(9), "keep": 2.0}, ["keep = 2.0", "whole number", "1 to 92", "nearest legal: 2"]),
        ({"video": clip(9), "keep": float("nan")}, ["keep = nan", "whole number"]),
        ({"video": iter(()), "keep": 2}, ["it has 0"]),
        ({"video": iter(clip(9)[..., 0])}, ["(height, width, 3)"]),
        ({"video": picture()}, ["(frames, height, width, 3)"]),
        ({"video": clip(9), "video_fps": 0}, ["above 0"]),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(InputError) as error:
        given_frames(SIZE, FPS, **arguments)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("frames, words", [(1, "ask for more frames"), (2, "legal: 1"), (5, "legal: 4")])
def test_one_frame_at_least_is_to_be_made(frames, words):
    """Where the message proposes a value, that value is accepted."""
    images = [(picture(), t) for t in range(frames)]
    with pytest.raises(InputError, match=rf"pictures: {frames}, frames of the clip: {frames}, .*one at least.*{words}"):
        given_frames((frames, 32, 48), FPS, images)
    assert given_frames((frames, 32, 48), FPS, images[1:]).task != "clear"


def test_suggested_crop_is_accepted():
    for height, width in ((32, 400), (300, 40)):
        with pytest.raises(InputError) as error:
            fit_picture(Image.fromarray(picture(1, height, width)), *SIZE[1:])
        width, height = map(int, re.search(r"crop it to (\d+) x (\d+)", str(error.value)).groups())
        assert fit_picture(Image.fromarray(picture(1, height, width)), *SIZE[1:]).shape == (32, 48, 3)


def test_bad_files(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "cut.png", "empty.png"):
        with pytest.raises(InputError, match=rf"cannot read picture .*{name}.*PNG or JPEG"):
            read_picture(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_picture(tmp_path)
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="more than 8 bits.*8-bit RGB"):
        read_picture(tmp_path / "deep.png")
    truncated = pytest.raises(InputError, match="cannot read the picture: .*truncated")
    with Image.open(tmp_path / "cut.png") as opened, truncated:
        read_picture(opened)
    with pytest.raises(InputError, match="cannot read the picture: conversion from La"):
        read_picture(Image.new("La", (32, 32)))
    # a few kB that claim more than MAX_PIXELS: the header suffices to refuse them before they are unpacked
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match="at most 80 million pixels"):
        read_picture(tmp_path / "huge.png")


def test_nothing_given_needs_no_picture():
    given = given_frames((9, 32, 48), FPS)
    assert isinstance(given, GivenFrames) and given.pixels.shape == (0, 32, 48, 3)
    assert (given.masked_video() == -1).all() and (given.latent_mask(STRIDE) == 1).all()
