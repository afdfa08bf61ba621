"""Media files and the two quality measures, against numbers computed by hand."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mindsora.errors import InputError
from mindsora.media import (
    check_output,
    contact_sheet,
    export_to_video,
    picked,
    psnr,
    read_video,
    save_image,
    spread,
    ssim,
    stream_video,
    to_uint8,
    write_clip,
)  # fmt: skip


def moving_square(frames=17, height=64, width=64):
    """A green square that moves 2 pixels a frame on red: flat colours, sharp edges."""
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = 200, 30, 60
    for t in range(frames):
        clip[t, 16:32, 2 * t : 2 * t + 16] = 20, 200, 40
    return clip


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_video_is_h264_yuv420p_and_comes_back(tmp_path):
    clip, path = moving_square(), tmp_path / "new" / "clip.mp4"
    assert export_to_video(clip, path, fps=8) == str(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 17)
        assert stream.average_rate == 8 and float(stream.duration * stream.time_base) == 17 / 8
        assert stream.codec_context.colorspace == 1  # BT.709, as the pixels were converted
    frames, fps = read_video(path)
    assert frames.shape == clip.shape and frames.dtype == np.uint8 and fps == 8
    # flat areas away from the edges: limited-range 8-bit YUV and crf 18 leave a few units; a wrong matrix leaves 20
    np.testing.assert_allclose(frames[0, 50, 50].astype(int), clip[0, 50, 50], atol=4)
    np.testing.assert_allclose(frames[0, 24, 8].astype(int), clip[0, 24, 8], atol=4)
    assert psnr(frames, clip) > 30  # colour edges are halved in resolution, the rest is close
    assert list(tmp_path.glob("**/*.partial")) == []


def test_same_frames_same_bytes(tmp_path):
    clip = moving_square()
    for name, frames in (("a", clip), ("b", clip / np.float32(255)), ("c", list(clip)), ("d", clip[::-1])):
        export_to_video(frames, tmp_path / f"{name}.mp4", fps=7.5)
    assert digest(tmp_path / "a.mp4") == digest(tmp_path / "b.mp4") == digest(tmp_path / "c.mp4")
    assert digest(tmp_path / "a.mp4") != digest(tmp_path / "d.mp4")
    assert read_video(tmp_path / "a.mp4")[1] == 7.5


def test_chunks_give_the_bytes_of_the_whole(tmp_path):
    clip = moving_square(17, 33, 47)
    whole, streamed = tmp_path / "whole.mp4", tmp_path / "streamed.mp4"
    export_to_video(clip, whole)
    assert export_to_video(iter([clip[:1], clip[1:10], clip[10:] / np.float32(255)]), streamed) == str(streamed)
    assert digest(whole) == digest(streamed)
    assert write_clip([clip[:9], clip[9:]], streamed, 8) == str(streamed) and digest(whole) == digest(streamed)
    assert write_clip([clip[:1]], tmp_path / "a.png", 8) == str(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), clip[0])


def broken_off():
    yield moving_square(9)
    raise InputError("the rest never came")


@pytest.mark.parametrize(
    "chunks, message",
    [
        (iter([]), "no chunk"),
        (iter([moving_square(9), moving_square(8, 64, 80)]), "a chunk is 64 x 80, the first was 64 x 64"),
        (iter([moving_square(9), moving_square(8)[0]]), "one clip"),
        (iter([moving_square(9), np.full((2, 64, 64, 3), np.nan)]), "NaN"),
        (broken_off(), "the rest never came"),
    ],
)
def test_broken_streams_leave_no_file(tmp_path, chunks, message):
    with pytest.raises(InputError, match=message):
        export_to_video(chunks, tmp_path / "bad.mp4")
    assert os.listdir(tmp_path) == []


def test_picked_frames():
    clip, kept = moving_square(), []
    passed = list(picked(iter([clip[:1], clip[1:12], clip[12:]]), spread(17), kept))
    np.testing.assert_array_equal(np.concatenate(passed), clip)
    assert spread(17) == [0, 5, 11, 16] and spread(2) == [0, 1] and spread(1) == [0] and spread(9, 3) == [0, 4, 8]
    np.testing.assert_array_equal(kept, clip[[0, 5, 11, 16]])
    assert all(frame.base is None for frame in kept)  # copies: a view would keep its whole chunk


def test_bytes_do_not_depend_on_what_memory_held_before(tmp_path):
    """glibc fills fresh and freed memory with the byte in MALLOC_PERTURB_; x264's macroblock tree let it through."""
    program = """
import sys
import numpy as np
from mindsora.media import export_to_video
clip = np.zeros((17, 64, 64, 3))
for t in range(17):
    clip[t, 16:32, 2 * t : 2 * t + 16] = 0.1, 0.8, 0.2
export_to_video(clip + 0.05 * np.random.RandomState(0).randn(*clip.shape), sys.argv[1])
"""
    digests = set()
    for byte in ("0", "85", "170"):
        path = tmp_path / f"{byte}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": byte, "PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=True)
        digests.add(digest(path))
    assert len(digests) == 1


def test_odd_sizes_gain_a_copy_of_the_last_row_and_column(tmp_path):
    clip = moving_square(3, 33, 47)
    export_to_video(clip, tmp_path / "odd.mp4")
    frames, _ = read_video(tmp_path / "odd.mp4")
    assert frames.shape == (3, 34, 48, 3)
    assert psnr(frames[:, :33, :47], clip) > 30
    np.testing.assert_allclose(frames[:, 33, 47].astype(int), clip[:, 32, 46], atol=4)


def test_reading_stops_at_max_frames(tmp_path):
    export_to_video(moving_square(), tmp_path / "clip.mp4")
    every, _ = read_video(tmp_path / "clip.mp4")
    some, _ = read_video(tmp_path / "clip.mp4", max_frames=5)
    np.testing.assert_array_equal(some, every[:5])


def test_a_video_frame_by_frame(tmp_path):
    export_to_video(moving_square(), tmp_path / "clip.mp4", fps=10)
    whole, fps = read_video(tmp_path / "clip.mp4")
    frames, same = stream_video(tmp_path / "clip.mp4")
    assert fps == same == 10
    np.testing.assert_array_equal(list(frames), whole)


def test_frames_of_too_many_pixels_are_refused(tmp_path, monkeypatch):
    """Before the first is decoded, as a picture's."""
    export_to_video(moving_square(), tmp_path / "clip.mp4")
    monkeypatch.setattr("mindsora.media.pixels.MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(InputError, match="clip.mp4' is 64 x 64: at most .* million pixels"):
        stream_video(tmp_path / "clip.mp4")


def test_png_is_lossless_and_reads_as_a_video_of_one_frame(tmp_path):
    image = np.random.RandomState(0).randint(0, 256, (31, 45, 3), np.uint8)
    save_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    frames, _ = read_video(tmp_path / "a.png")
    np.testing.assert_array_equal(frames, image[None])


def test_float_frames_are_rounded_and_clipped():
    values = np.array([-0.1, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.2])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 1, 255, 255])


@pytest.mark.parametrize("name", ["missing.mp4", "text.mp4", "empty.mp4", "cut.mp4", "."])
def test_unreadable_video_is_one_clear_error(tmp_path, name):
    export_to_video(moving_square(), tmp_path / "whole.mp4")
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=name):
        read_video(tmp_path / name)


@pytest.mark.parametrize(
    "frames, fps, message",
    [
        (moving_square()[None], 8, r"one clip .* not \(1, 17, 64, 64, 3\)"),
        (moving_square()[..., :1], 8, r"one clip"),
        (np.zeros((0, 8, 8, 3), np.uint8), 8, r"one clip"),
        (moving_square().astype(np.int32), 8, "int32; give uint8 or float"),
        (np.full((2, 8, 8, 3), np.nan), 8, "NaN"),
        (moving_square(), 0, "fps is 0"),
    ],
)
def test_bad_frames_write_nothing(tmp_path, frames, fps, message):
    with pytest.raises(InputError, match=message):
        export_to_video(frames, tmp_path / "bad.mp4", fps)
    assert os.listdir(tmp_path) == []


def test_unwritable_outputs(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.mp4").mkdir()
    for path, message in [
        (tmp_path / "clip.avi", "must end in .mp4"),
        (tmp_path / "file" / "clip.mp4", "cannot make the folder"),
        (tmp_path / "folder.mp4", "is a folder"),
    ]:
        with pytest.raises(InputError, match=message):
            check_output(path, [".mp4"])


def test_failed_write_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    export_to_video(moving_square(), path)
    before = digest(path)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("av.VideoFrame.from_ndarray", full_disk)
    with pytest.raises(InputError, match="No space left"):
        export_to_video(moving_square()[::-1], path)
    assert os.listdir(tmp_path) == ["clip.mp4"] and digest(path) == before


def test_contact_sheet_shows_first_and_last_frames_in_order(tmp_path):
    clips = [np.full((9, 64, 64, 3), 0, np.uint8) for _ in range(5)]
    for i, clip in enumerate(clips):
        clip[..., 0] = 10 * np.arange(9)[:, None, None] + 100  # red: the frame
        clip[..., 1] = 20 * (i + 1)  # green: the clip
    path = contact_sheet(
        clips,
        [f"clip number {i}, with a label that needs to be wrapped " * 3 for i in range(5)],
        tmp_path / "sheet.png",
        frames_per_clip=3,
    )
    sheet = np.asarray(Image.open(path)).reshape(-1, 3)
    colours, counts = np.unique(sheet, axis=0, return_counts=True)
    seen = {tuple(colour): count for colour, count in zip(colours, counts) if 0 < colour[1] <= 100 and colour[2] == 0}
    expected = {(100 + 10 * t, 20 * (i + 1), 0) for i in range(5) for t in (0, 4, 8)}
    assert seen == dict.fromkeys(expected, 128 * 128)  # 64 pixels enlarged twice, none covered
    assert (sheet == 0).all(axis=1).any()  # labels are drawn, in black


def test_contact_sheet_moves_as_webp(tmp_path):
    clips = [np.full((frames, 64, 64, 3), level, np.uint8) for frames, level in ((3, 40), (2, 200))]
    clips[0][1] = 90
    path = contact_sheet(clips, ["three", "two"], tmp_path / "sheet.webp", fps=4)
    with Image.open(path) as sheet:
        assert sheet.n_frames == 3 and sheet.info["loop"] == 0
        middle = []
        for page in range(3):
            sheet.seek(page)
            middle.append(np.asarray(sheet.convert("RGB"))[50, 50, 0].item())
            assert sheet.info["duration"] == 250  # available after the page is decoded
    np.testing.assert_allclose(middle, [40, 90, 40], atol=3)  # lossy


def test_contact_sheet_refuses_what_does_not_fit_together(tmp_path):
    clip = moving_square()
    for clips, labels, message in [
        ([], [], "0 clips"),
        ([clip], ["a", "b"], "1 clips and 2 labels"),
        ([clip, moving_square(width=80)], ["a", "b"], "one size"),
    ]:
        with pytest.raises(InputError, match=message):
            contact_sheet(clips, labels, tmp_path / "sheet.png")
    assert os.listdir(tmp_path) == []


def test_psnr_by_hand():
    black = np.zeros((2, 16, 16, 3), np.uint8)
    grey = black.copy()
    grey[0] = 51  # 0.2: mse 0.04 = 13.9794 dB
    assert psnr(grey, black) == pytest.approx((13.979400086720377 + 100) / 2, abs=1e-9)  # equal frames count 100 dB
    assert psnr(grey / 255.0, black) == pytest.approx(psnr(grey, black), abs=1e-9)


def test_ssim_is_the_published_formula():
    """Against a float64 twin: 11 x 11 Gaussian windows that lie entirely inside the picture."""
    rng = np.random.RandomState(0)
    a = rng.rand(2, 20, 24, 3)
    b = np.clip(a + 0.2 * rng.randn(*a.shape), 0, 1)
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))[..., None]
    window /= window.sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for x, y in zip(a, b):
        for top in range(20 - 10):
            for left in range(24 - 10):
                p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
                mp, mq = (window * p).sum((0, 1)), (window * q).sum((0, 1))
                vp, vq = (window * p * p).sum((0, 1)) - mp**2, (window * q * q).sum((0, 1)) - mq**2
                cov = (window * p * q).sum((0, 1)) - mp * mq
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-12)  # both float64, sums in another order
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_measures_refuse_unlike_clips():
    for measure in (psnr, ssim):
        with pytest.raises(InputError, match="one shape"):
            measure(moving_square(), moving_square(frames=9))
    with pytest.raises(InputError, match="11 x 11"):
        ssim(moving_square(height=40, width=40)[:, :8], moving_square(height=40, width=40)[:, :8])
