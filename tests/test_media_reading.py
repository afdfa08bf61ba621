"""Files of users and attackers: rotated, mirrored, transparent, with a change of size midway, or disguised playlists."""

import gc
import struct
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from mindsora.errors import InputError, shown
from mindsora.media import export_to_video, read_picture, read_video

ONE = 1 << 16  # the matrix of a track is in 16.16 fixed point


def quadrants(height=32, width=48):
    """Four flat quarters, so every rotation and mirror image differs: red, green / blue, white."""
    picture = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    picture[top, left], picture[top, right] = (220, 20, 20), (20, 200, 20)
    picture[bottom, left], picture[bottom, right] = (20, 20, 220), (230, 230, 230)
    return picture


def corners(picture):
    """Return the nearest of the four colours in each corner, row by row."""
    palette = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (230, 230, 230)}
    pixels = [picture[y, x].astype(int) for y in (4, -5) for x in (4, -5)]
    return [min(palette, key=lambda name: abs(pixel - palette[name]).sum()) for pixel in pixels]


def with_matrix(path, a, b, c, d):
    """Write the display matrix into the track header of an mp4, as a phone does."""
    content = path.read_bytes()
    at = content.index(b"tkhd") + 4 + 40  # after version, flags, times, id, layer and volume (version 0)
    matrix = struct.pack(">9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:at] + matrix + content[at + 36 :])


@pytest.mark.parametrize(
    "matrix, shape, expected",
    [
        ((1, 0, 0, 1), (32, 48), ["red", "green", "blue", "white"]),
        # A phone held upright: the picture is rotated clockwise, so the lower left moves to the upper left.
        ((0, 1, -1, 0), (48, 32), ["blue", "red", "white", "green"]),
        ((-1, 0, 0, -1), (32, 48), ["white", "blue", "green", "red"]),
        ((0, -1, 1, 0), (48, 32), ["green", "white", "red", "blue"]),
        ((-1, 0, 0, 1), (32, 48), ["green", "red", "white", "blue"]),  # a front camera's mirror image
        ((1, 0, 0, -1), (32, 48), ["blue", "white", "red", "green"]),
        ((0, 1, 1, 0), (48, 32), ["red", "blue", "green", "white"]),
    ],
)
def test_clips_come_upright(tmp_path, matrix, shape, expected):
    path = tmp_path / "phone.mp4"
    export_to_video(np.stack([quadrants()] * 3), path)
    with_matrix(path, *matrix)
    frames, _ = read_video(path)
    assert frames.shape == (3, *shape, 3)
    assert corners(frames[0]) == expected


def test_another_size_midway_is_named(tmp_path):
    """Plain concatenation joins MPEG transport streams."""
    path = tmp_path / "joined.ts"
    parts = []
    for height, width in ((32, 48), (64, 64)):
        part = tmp_path / f"{height}.ts"
        with av.open(str(part), "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for _ in range(8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(height, width), format="rgb24")))
            container.mux(stream.encode())
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    with pytest.raises(InputError, match=r"frame \d+ is 64 x 64, the frames before are 48 x 32; re-encode"):
        read_video(path)


@pytest.mark.parametrize(
    "codec, pixel_format, suffix", [("libvpx-vp9", "yuva420p", "webm"), ("prores_ks", "yuva444p10le", "mov")]
)
def test_transparent_pixels_are_white(tmp_path, codec, pixel_format, suffix):
    path = tmp_path / f"clear.{suffix}"
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 0] = 200  # the red must not show on the left half
    pixels[:, 32:, 3] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = 64, 64, pixel_format
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    frame = read_video(path)[0][0]
    np.testing.assert_allclose(frame[32, 8], 255, atol=3)  # the codecs are lossy
    np.testing.assert_allclose(frame[32, 56].astype(int), [200, 0, 0], atol=12)


@pytest.mark.parametrize(
    "name, content",
    [
        ("list.mp4", "ffconcat version 1.0\nfile 'secret.mp4'\n"),
        ("list.txt", "ffconcat version 1.0\nfile 'secret.mp4'\n"),
        ("live.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:9,\nsecret.mp4\n"),
        ("live.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:9,\nsecret.mp4\n"),
        ("show.mpd", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>'),
    ],
)
def test_playlists_do_not_read_their_neighbours(tmp_path, name, content):
    export_to_video(np.stack([quadrants()] * 2), tmp_path / "secret.mp4")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="cannot read .* as a video"):
        read_video(tmp_path / name)


def test_a_pattern_does_not_read_its_neighbours(tmp_path):
    """FFmpeg would read 0.png, 1.png and 2.png for this name; the file itself is a picture."""
    for number in range(3):
        Image.fromarray(quadrants()).save(tmp_path / f"{number}.png")
    Image.fromarray(quadrants(16, 16)).save(tmp_path / "%d.png")
    assert read_video(tmp_path / "%d.png")[0].shape == (1, 16, 16, 3)
    (tmp_path / "%d.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot read"):
        read_video(tmp_path / "%d.png")


def test_a_flipped_file_is_one_clear_error(tmp_path):
    """Each bit of a small file is flipped, one file per bit: the reader returns a clip or raises InputError."""
    export_to_video(np.stack([quadrants(16, 16)] * 2), tmp_path / "good.mp4")
    good = (tmp_path / "good.mp4").read_bytes()
    path = tmp_path / "flipped.mp4"
    refused = 0
    for at in range(0, len(good), 3):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read_video(path)[0].ndim == 4
            except InputError:
                refused += 1
    assert refused > 20  # the boxes before the pictures are most of such a file


def test_files_that_end_early_and_displays_that_are_not_followed_are_said(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.codec_context.color_trc = 16  # PQ
        stream.options = {"g": "1"}
        for _ in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        container.mux(stream.encode())
    with pytest.warns(UserWarning) as told:
        assert len(read_video(path)[0]) == 40
    messages = " ".join(str(warning.message) for warning in told)
    assert "high dynamic range (PQ)" in messages and "shape 4:3" in messages and "cut off" not in messages
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"ends after \d\.\d+ of its 5\.00 seconds; the file may be cut off"):
        read_video(path)


def test_animated_webp_is_a_video(tmp_path):
    pages = [Image.fromarray(np.full((32, 32, 3), level, np.uint8)) for level in (10, 120, 240)]
    pages[0].save(tmp_path / "moving.webp", save_all=True, append_images=pages[1:], duration=125, lossless=True)
    try:
        frames, _ = read_video(tmp_path / "moving.webp")
    except InputError as error:  # FFmpeg's libraries learnt it in version 8
        assert "moving.webp" in str(error)
    else:
        np.testing.assert_allclose(frames[:, 16, 16, 0], [10, 120, 240], atol=3)


def test_pictures_of_other_kinds_start_nothing(tmp_path):
    """PostScript would start Ghostscript under any file name."""
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n")
    with pytest.raises(InputError, match="none of PNG, JPEG"):
        read_picture(tmp_path / "x.jpg")


def test_a_picture_of_too_many_pixels_is_refused_without_a_warning(tmp_path):
    """Pillow would warn from 90 million pixels on, in lines of its own."""
    Image.new("1", (10_000, 9_500)).save(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="10000 x 9500: at most 80 million pixels"):
            read_picture(tmp_path / "large.png")


def test_sixteen_bits_are_refused(tmp_path):
    import zlib

    raw = b"".join(b"\0" + bytes(6 * 32) for _ in range(32))  # filter byte, 32 pixels of 3 x 16 bits

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    with pytest.raises(InputError, match="more than 8 bits a channel"):
        read_picture(tmp_path / "deep.png")


def test_float_pictures_in_bytes_are_refused():
    with pytest.raises(InputError, match="float pixels reach 255: .* divide by 255"):
        read_picture(np.full((32, 32, 3), 255.0))
    assert np.asarray(read_picture(np.full((32, 32, 3), 1.0))).min() == 255


def test_a_photograph_is_a_video_of_one_frame(tmp_path):
    """Turned as its EXIF orientation says. FFmpeg knows a large JPEG by its name alone, and PyAV no EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    noise = np.random.default_rng(0).integers(0, 20, (320, 480, 3))
    Image.fromarray((quadrants(320, 480) + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    frames, _ = read_video(tmp_path / "x.jpg")
    assert frames.shape == (1, 480, 320, 3) and corners(frames[0]) == ["blue", "red", "white", "green"]


def test_a_named_colour_profile_is_freed_once(tmp_path):
    """It was freed a second time when Python collected the frame, which ended the process."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    first, second = Image.fromarray(quadrants()), Image.fromarray(quadrants()[::-1])
    first.save(tmp_path / "x.png", icc_profile=profile)
    first.save(tmp_path / "y.png", icc_profile=profile, save_all=True, append_images=[second])  # animated
    for _ in range(6):
        still, animated = read_video(tmp_path / "x.png")[0], read_video(tmp_path / "y.png")[0]
        gc.collect()
    np.testing.assert_array_equal(still[0], quadrants())
    np.testing.assert_array_equal(animated, [quadrants(), quadrants()[::-1]])


def test_foreign_text_in_messages_is_escaped_and_short():
    assert shown("a\x1b[31mb\nc\u202e") == "'a\\x1b[31mb\\nc\\u202e'"
    assert len(shown("x" * 10**6)) < 210
    assert shown("\udc80") == "'\\udc80'"
