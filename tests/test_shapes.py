import subprocess
import sys
from dataclasses import replace

import pytest

from mindsora.errors import InputError
from mindsora.shapes import ShapeRules, check_steps, chunks

V1_5 = ShapeRules(vae_stride=(8, 8, 8), patch_size=2, max_frames=121, max_height=1024, max_width=1024)
LIMITED = replace(V1_5, max_pixels=589_824)  # of v1.5's released index
V1_3 = ShapeRules(vae_stride=(4, 8, 8), patch_size=2, max_frames=93, max_height=640, max_width=640)


def test_released_sizes():
    """The sizes come from the v1.5 and v1.3 reports."""
    V1_5.check(121, 576, 1024)
    assert V1_5.latent(121, 576, 1024) == (16, 72, 128)
    assert V1_5.tokens(121, 576, 1024) == 16 * 36 * 64
    V1_3.check(93, 352, 640)
    assert V1_3.latent(93, 352, 640) == (24, 44, 80)
    assert V1_3.tokens(93, 352, 640) == 21120
    assert V1_5.latent(1, 16, 16) == (1, 2, 2)


@pytest.mark.parametrize(
    "frames, nearest",
    [
        (0, "1"),
        (-7, "1"),
        (2, "1 or 9"),
        (8, "1 or 9"),
        (10, "9 or 17"),
        (16, "9 or 17"),
        (120, "113 or 121"),
        (122, "121"),
        (129, "121"),
    ],
)
def test_frames(frames, nearest):
    with pytest.raises(InputError) as error:
        V1_5.check(frames, 576, 1024)
    assert str(error.value) == (
        f"num_frames = {frames}: num_frames must be 1 + 8k, from 1 to 121; nearest legal: {nearest}"
    )


@pytest.mark.parametrize("height, nearest", [(0, "16"), (8, "16"), (570, "560 or 576"), (1025, "1024"), (1040, "1024")])
def test_height_and_width(height, nearest):
    for name, size in (("height", (height, 1024)), ("width", (576, height))):
        with pytest.raises(InputError) as error:
            V1_5.check(121, *size)
        assert f"{name} = {height}" in str(error.value) and "a multiple of 16" in str(error.value)
        assert str(error.value).endswith(f"nearest legal: {nearest}")


def test_every_named_nearest_value_is_legal():
    for frames in range(-3, 130):
        try:
            V1_5.check(frames, 16, 16)
            assert frames % 8 == 1 and 1 <= frames <= 121
        except InputError as error:
            for nearest in str(error).rpartition(": ")[2].split(" or "):
                V1_5.check(int(nearest), 16, 16)
    for height in range(-3, 1060):
        try:
            V1_5.check(1, height, 16)
            assert height % 16 == 0 and 16 <= height <= 1024
        except InputError as error:
            for nearest in str(error).rpartition(": ")[2].split(" or "):
                V1_5.check(1, int(nearest), 16)


def test_a_limit_of_pixels_names_a_legal_frame_of_the_same_aspect():
    for size in ((576, 1024), (1024, 576), (768, 768)):
        LIMITED.check(121, *size)
    for size, nearest in (((1024, 1024), (768, 768)), ((1024, 592), (1008, 576)), ((608, 1024), (576, 992))):
        with pytest.raises(InputError) as error:
            LIMITED.check(121, *size)
        assert f"{size[0]} x {size[1]}: must be at most 589824 pixels" in str(error.value)
        assert str(error.value).endswith(f"nearest legal: {nearest[0]} x {nearest[1]}")
        LIMITED.check(121, *nearest)
    assert LIMITED.describe().endswith("width a multiple of 16 up to 1024; up to 589824 pixels")


@pytest.mark.parametrize(
    "picture, size",
    [
        ((480, 640), (416, 544)),  # 421.2 x 561.6 by upstream's rule, then multiples of 32
        ((640, 480), (544, 416)),
        ((1000, 1000), (480, 480)),  # 486.4
        ((1080, 1920), (352, 640)),
        ((1920, 1080), (640, 352)),
        ((200, 300), (192, 288)),  # a small size stays
    ],
)
def test_a_clip_takes_its_size_from_a_picture(picture, size):
    """v1.3's rule: at most 236,544 pixels, both sides scaled equally, then cut to multiples of 32."""
    assert V1_3.shrunk(*picture, 236_544, 32) == size
    V1_3.check(93, *size)


def test_a_picture_that_gives_no_frame_is_refused():
    with pytest.raises(InputError, match="31 x 400: makes no frame of multiples of 32 x 32 within 236544 pixels"):
        V1_3.shrunk(31, 400, 236_544, 32)


def test_only_whole_numbers():
    for value in (17.0, "17", True, None):
        with pytest.raises(InputError, match="num_frames"):
            V1_5.check(value, 64, 64)


def test_steps():
    check_steps(1)
    check_steps(1000)
    for steps, nearest in ((0, "1"), (-5, "1"), (1001, "1000")):
        with pytest.raises(InputError, match=f"from 1 to 1000; nearest legal: {nearest}"):
            check_steps(steps)


def test_description_and_bad_rules():
    assert V1_5.describe() == (
        "frames 1 + 8k up to 121; height a multiple of 16 up to 1024; width a multiple of 16 up to 1024"
    )
    with pytest.raises(InputError):
        ShapeRules(vae_stride=(8, 8, 0), patch_size=2, max_frames=1, max_height=1, max_width=1)


def test_needs_no_mindspore():
    code = "import sys, mindsora.shapes; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_chunks():
    """Each chunk but the last has one look-ahead latent, those after the first share a length, and no latent repeats."""
    for size in (1, 2, 3, 4):
        for latents in range(1, 40):
            cut = chunks(latents, size)
            assert cut[0][0] == 0 and cut[-1][1:] == (latents, latents)
            assert all(before[1] == start and before[2] == start + 1 for before, (start, *_) in zip(cut, cut[1:]))
            assert all(seen - start == size + 1 for start, _, seen in cut[1:])
            assert (len(cut) == 1) == (latents <= size + 2)
            assert len(cut) == 1 or 3 <= cut[0][2] <= size + 2
