"""Tasks and masks of the inpainting models of v1.3 and v1.2 against upstream's."""

import json
import random

import numpy as np
import pytest
from golden_file import FOLDER, Golden

from mindsora.data.frame_masks import (
    TASKS,
    compress,
    draw_given,
    draw_task,
    frame_mask,
    hide,
    name_task,
    noise_given,
    sampling_noise_level,
    training_noise_level,
)  # fmt: skip
from mindsora.errors import InputError
from mindsora.pipelines.given_frames import GivenFrames

GOLDEN, V1_2 = Golden("v13_inpaint_masks"), Golden("v12_i2v_masks")
GIVEN = [name.removeprefix("given_frames_") for name in V1_2.inputs if name.startswith("given_frames_")]
TRAINING = json.loads((FOLDER / "train_masks.json").read_text())
STRIDE = (4, 8, 8)


def of_frames(mask, height=32, width=48):
    """(T,) -> (1, 1, T, H, W)."""
    return np.broadcast_to(mask.reshape(1, 1, -1, 1, 1), (1, 1, len(mask), height, width))


@pytest.mark.parametrize("case", GIVEN)
def test_v1_2_orders_the_masks_channels_before_time(case):
    frames = int(case.split("_")[-1])
    mask = frame_mask(tuple(V1_2.inputs[f"given_frames_{case}"]), frames).reshape(1, 1, -1, 1, 1)
    whole = np.broadcast_to(mask, (1, 1, frames, 32, 48))
    np.testing.assert_array_equal(compress(whole, STRIDE, "v1.2"), V1_2.outputs[f"latent_mask_{case}"])


def test_v1_2_interpolates_masks_as_v1_3():
    ours = compress(V1_2.inputs["random_mask"], STRIDE, "v1.2")
    np.testing.assert_allclose(ours, V1_2.outputs["latent_random_mask"], rtol=0, atol=1e-6)  # float32 means


@pytest.mark.parametrize("case", ["i2v_9", "transition_9"])
def test_v1_2_shows_grey_where_frames_are_hidden(case):
    """Its pictures are already normalised; converted to pixels they are whole numbers."""
    times = tuple(int(time) for time in V1_2.inputs[f"given_frames_{case}"])
    pixels = ((V1_2.inputs[f"images_{case}"] + 1) * 127.5).transpose(0, 2, 3, 1)  # (n, H, W, 3)
    given = GivenFrames((9, 32, 48), times, np.round(pixels).astype(np.uint8))
    expected = V1_2.outputs[f"masked_pixels_{case}"]
    # Where the reference's pixels are not whole numbers, half a level of 255 may differ; hidden frames are exactly 0.
    np.testing.assert_allclose(given.masked_video(release="v1.2"), expected, rtol=0, atol=0.5 / 127.5 + 1e-6)
    hidden = [i for i in range(9) if i not in times]
    assert not given.masked_video(release="v1.2")[:, :, hidden].any() and not expected[:, :, hidden].any()


@pytest.mark.parametrize("case", TRAINING["masks"], ids=lambda c: f"{c['type']}-{c['frames']}-{c['min_clear']}")
def test_given_frames(case):
    given = draw_given(
        case["type"], case["frames"], random.Random(case["py_seed"]), case["min_clear"], case["max_clear"]
    )
    assert list(given) == case["kept_frames"]
    mask = frame_mask(given, case["frames"])
    ones = np.ones((case["frames"], 2, 2, 3), np.float32)
    assert hide(ones, mask.reshape(-1, 1, 1, 1)).sum() == case["masked_pixel_sum"]


@pytest.mark.parametrize("case", TRAINING["type_draws"], ids=["released", "stage1"])
def test_drawn_tasks(case):
    rng = random.Random(case["py_seed"])
    drawn = [draw_task(case["ratios"], 29, rng) for _ in range(case["draws"])]
    assert {task: drawn.count(task) for task in set(drawn)} == case["counts"]


def test_tasks_of_pictures_and_of_no_weights():
    rng = random.Random(0)
    released = TRAINING["type_draws"][0]["ratios"]
    drawn = [draw_task({"clear": 0, "t2iv": 0, "i2v": 8}, 1, rng) for _ in range(2000)]
    assert set(drawn) == {"t2iv", "clear"} and abs(drawn.count("clear") - 1000) < 100  # 4.5 standard deviations
    assert {draw_task(released | {"clear": 0}, 1, rng) for _ in range(100)} == {"t2iv"}
    drawn = [draw_task(dict.fromkeys(TASKS, 0), 29, rng) for _ in range(6000)]
    assert all(abs(drawn.count(task) - 1000) < 130 for task in TASKS)  # 4.5 standard deviations


def test_how_many_frames_are_given():
    """Counts run from floor to ceil of the shares, both ends included, and never exceed the frames of the clip."""
    counts = {len(draw_given("continuation", 9, random.Random(seed), 0.5, 0.5)) for seed in range(50)}
    assert counts == {4, 5}
    counts = {len(draw_given("random_temporal", 3, random.Random(seed))) for seed in range(200)}
    assert counts == {0, 1, 2, 3}


@pytest.mark.parametrize("task", ["t2iv", "i2v", "transition", "continuation", "clear"])
def test_sampling_masks(task):
    mask = frame_mask(draw_given(task, 9, random.Random(0), 0.5, 0.5), 9)
    if task == "continuation":  # 4 or 5 frames; upstream's draw was 5
        mask = frame_mask(tuple(range(5)), 9)
    np.testing.assert_array_equal(mask, GOLDEN.outputs[f"frame_mask_{task}"])
    np.testing.assert_array_equal(compress(of_frames(mask), STRIDE), GOLDEN.outputs[f"latent_mask_{task}"])


def test_interpolated_mask():
    actual = compress(GOLDEN.inputs["random_mask"], STRIDE)
    np.testing.assert_allclose(actual, GOLDEN.outputs["latent_random_mask"], rtol=0, atol=1e-6)  # sums in another order


@pytest.mark.parametrize("case", TRAINING["compress"], ids=lambda c: f"{c['frames']}-{c['ae_stride_t']}-{c['kept']}")
def test_compression(case):
    mask = of_frames(frame_mask(tuple(case["kept"]), case["frames"]), case["h"], case["w"])
    latent = compress(mask, (case["ae_stride_t"], 8, 8))
    assert list(latent.shape) == case["shape"]
    assert (latent == latent[..., :1, :1]).all()
    np.testing.assert_array_equal(latent[0, ..., 0, 0], case["per_channel_latent_frames"])


def test_hidden_frames_are_black():
    pixels = GOLDEN.inputs["pixels"]  # (T, 3, H, W)
    mask = frame_mask((0,), 9).reshape(-1, 1, 1, 1)
    means = hide(pixels, mask).mean((1, 2, 3))
    np.testing.assert_allclose(means, GOLDEN.outputs["masked_pixels_i2v_framemean"], rtol=0, atol=1e-6)
    hidden = hide(np.full((9, 2, 2, 3), 200, np.uint8), mask) / 127.5 - 1
    assert (hidden[1:] == -1).all() and hidden[0].min() > 0.5


def test_conditioning_noise():
    video, mask, noise = (GOLDEN.inputs[f"noise_{name}"] for name in ("clean_pixels", "mask", "draw"))
    normal = GOLDEN.inputs["noise_normal_draw"]
    for level, name in (
        (training_noise_level(normal, np.ones(2)), "noised_pixels_train"),
        (sampling_noise_level(0.1, normal), "noised_pixels_infer_strength0.1"),
    ):
        actual = noise_given(video, mask, level, noise)
        np.testing.assert_allclose(actual, GOLDEN.outputs[name], rtol=0, atol=1e-6)  # float32 rounding of exp
        np.testing.assert_array_equal(actual[:, :, 1:], video[:, :, 1:])  # only the first frame is given
    assert sampling_noise_level(0, normal).tolist() == [0, 0]
    assert training_noise_level(np.zeros(3), np.array([0.0, 0.049, 0.05])).tolist() == pytest.approx([0, 0, np.exp(-3)])


@pytest.mark.parametrize(
    "given, frames, task",
    [
        ((), 9, "t2iv"),
        ((0,), 9, "i2v"),
        ((0, 8), 9, "transition"),
        ((0, 1), 9, "continuation"),
        ((0, 1), 2, "clear"),
        ((0,), 1, "clear"),
        ((8,), 9, "random_temporal"),
        ((0, 4, 8), 9, "random_temporal"),
    ],
)
def test_name_of_a_task(given, frames, task):
    assert name_task(given, frames) == task


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: draw_task({"i2vv": 1}, 9, random.Random()), ["'i2vv'", "i2v"]),
        (lambda: draw_task({"i2v": -1}, 9, random.Random()), ["-1", "0 or more"]),
        (lambda: draw_task({}, 9, random.Random()), ["no task"]),
        (lambda: draw_given("i2vv", 9, random.Random()), ["'i2vv'", "i2v"]),
        (lambda: draw_given("continuation", 9, random.Random(), 0.6, 0.5), ["0.6, 0.5", "0 to 1"]),
        (lambda: compress(np.ones((1, 1, 11, 16, 16)), STRIDE), ["11 frames", "1 + 4k"]),
        (lambda: compress(np.ones((1, 1, 10, 16, 16)), STRIDE), ["10 frames", "4k"]),
        (lambda: compress(np.ones((1, 1, 9, 16, 20)), STRIDE), ["16 x 20", "8"]),
        (lambda: sampling_noise_level(1.5, np.zeros(1)), ["1.5", "nearest legal: 1"]),
        (lambda: sampling_noise_level(-1, np.zeros(1)), ["-1", "nearest legal: 0"]),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(InputError) as error:
        call()
    for word in words:
        assert word in str(error.value)
