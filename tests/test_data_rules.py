"""The rules of training data: upstream's numbers (tests/golden/train_*.json), and what holds for any data."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from golden_file import FOLDER
from hypothesis import given, settings
from hypothesis import strategies as st

from mindsora.data import sizes
from mindsora.data.annotations import Clip, DataSet, clip_of
from mindsora.data.captions import DEFAULTS, draw_caption
from mindsora.data.collate import box_of, collate, one_shape
from mindsora.data.filtering import filter_clips, judge
from mindsora.data.frame_index import draw_frames, legal_length
from mindsora.data.grouped import GroupedOrder, TorchGenerator, grouped, upstream_batches
from mindsora.data.resize import resize
from mindsora.data.settings import VideoData
from mindsora.errors import InputError
from mindsora.text.cleaning import clean_prompt

BUCKETS, CAPTIONS, COLLATE, FRAMES, RESIZE, SAMPLER = (
    json.loads((FOLDER / f"train_{name}.json").read_text(encoding="utf-8"))
    for name in ("buckets", "captions", "collate", "frame_index", "resize", "sampler")
)


def settings_of(config):
    """The golden's arguments of upstream as our settings."""
    fixed = config["force_resolution"]
    return VideoData(
        "none",
        config["num_frames"],
        size=(config["max_height"], config["max_width"]) if fixed else None,
        max_pixels=None if fixed else config["max_hxw"],
        min_pixels=config["min_hxw"],
        five_ratios=config["force_5_ratio"],
        pixel_stride=config["hw_stride"],
        frame_stride=config["ae_stride_t"],
        fps=config["train_fps"],
        aspect=(config["min_h_div_w_ratio"], config["max_h_div_w_ratio"]),
        min_frames=config["min_num_frames"],
        drop_short_ratio=config["drop_short_ratio"],
        too_long_factor=config["too_long_factor"],
        speed_factor=config["speed_factor"],
        sequence_parallel=config["sp_size"],
    )


@pytest.mark.parametrize("group", BUCKETS["groups"], ids=lambda group: str(group["config"]["max_hxw"]))
def test_the_filter_keeps_and_drops_what_upstream_does(group):
    data = settings_of(group["config"])
    for case in group["cases"]:
        record, expected = case["input"], case["output"]
        name = "a.jpg" if record["kind"] == "image" else "a.mp4"
        clip = clip_of(record | {"cap": "x", "path": name}, "/data")
        reason, bucket = judge(clip, data, "v1.5", np.random.default_rng(0))
        assert reason == expected.get("reason"), record
        if expected["keep"]:
            assert bucket == expected["bucket"]
            frames = draw_frames(clip, data, random.Random(record["_py_seed"])).tolist()
            first, last = expected["first"], expected["last"]
            assert (len(frames), frames[: len(first)], frames[-len(last) :]) == (expected["n"], first, last)


def test_the_five_sizes():
    for case in BUCKETS["min_max_tokens"]:
        found = sizes.min_max_sizes(case["max_hxw"], case["stride"])
        assert {f"{a}:{b}": list(size) for (a, b), size in found.items()} == case["hw"]
        assert min(height * width for height, width in found.values()) == case["min_hxw"]
    assert sizes.min_pixels(VideoData("none", 1, max_pixels=256**2)) == 36864
    assert sizes.min_pixels(VideoData("none", 1, max_pixels=256**2, five_ratios=False)) == 128**2
    assert sizes.min_pixels(VideoData("none", 1, size=(288, 512))) == 288 * 512


@pytest.mark.parametrize("case", BUCKETS["resize_crop"], ids=lambda case: f"{case['h']}x{case['w']}")
def test_resize_and_crop_sizes(case):
    data = VideoData(
        "none", 1, max_pixels=case["max_hxw"], five_ratios=case["force_5_ratio"], pixel_stride=case["hw_stride"]
    )
    fit = sizes.fit(case["h"], case["w"], data)
    assert (list(fit.resize), list(fit.keep)) == (case["resize"], case["crop"])
    assert list(sizes.nearest_ratio(case["h"], case["w"])) == case["nearest_ratio_hw"]


@pytest.mark.parametrize("case", RESIZE["cases"], ids=lambda case: f"{case['mode']} {case['h']}x{case['w']}")
def test_interpolation(case):
    rows, columns = np.mgrid[: case["h"], : case["w"]]
    frame = np.stack([(11 * rows + 7 * columns + 5 * c * case["k"]) % 256 for c in (0, 1)], -1) / np.float32(255)
    height, width = case["cropped_hw"]
    top = 0 if case["top_crop"] else round((case["h"] - height) / 2)
    left = round((case["w"] - width) / 2)
    result = resize(frame[top : top + height, left : left + width].astype(np.float32), *case["target"], case["mode"])
    # float32 sums of up to 30 products, in another order
    np.testing.assert_allclose(result.transpose(2, 0, 1).ravel(), case["out"], rtol=0, atol=1e-6)


@pytest.mark.full
def test_large_frames_equal_torch():
    """Blocks of rows, uint8 input, enlarging and shrinking at once."""
    import torch

    frame = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)
    for mode, size in (("bicubic", (144, 40)), ("bilinear", (24, 128))):
        expected = torch.nn.functional.interpolate(
            torch.tensor(frame.transpose(2, 0, 1)[None]).double(), size, mode=mode, align_corners=True, antialias=True
        )
        found = resize(frame, *size, mode).transpose(2, 0, 1)
        np.testing.assert_allclose(found, expected[0], rtol=0, atol=2e-4)  # 255 times the eps of float32, some sums


def test_a_fixed_size_takes_the_centre_with_its_ratio():
    fit = sizes.fit(13, 29, VideoData("none", 1, size=(16, 16)))
    assert fit == ((0, 8, 13, 13), (16, 16), (0, 0, 16, 16))


@pytest.mark.parametrize("case", FRAMES["cases"], ids=lambda case: "-".join(map(str, case["input"].values())))
def test_frame_numbers(case):
    config, expected = case["input"], case["output"]
    data = VideoData(
        "none",
        config["num_frames"],
        size=(16, 16),
        frame_stride=config["ae_stride_t"],
        fps=config["train_fps"],
        drop_short_ratio=config.get("drop_short_ratio", 1.0),
        speed_factor=config.get("speed_factor", 1.0),
        sequence_parallel=config.get("sp_size", 1),
    )
    clip = Clip("a.mp4", ("x",), 16, 16, config["total"], config["fps"], config["start"])
    frames = draw_frames(clip, data, random.Random(config["py_seed"])).tolist()
    assert frames == expected.get("indices", [])  # none for a dropped one


@pytest.mark.parametrize("name, table", FRAMES["closest_legal_frame_count"].items())
def test_legal_lengths(name, table):
    stride, cards = (int(part.strip("stridep")) for part in name.split("_"))
    longest = 1 + stride * (cards * 40 - 1)
    data = VideoData("none", longest, size=(16, 16), frame_stride=stride, sequence_parallel=cards, drop_short_ratio=0.0)
    assert {count: legal_length(int(count), data) or -1 for count in table} == table


@pytest.mark.parametrize("case", CAPTIONS["cases"], ids=lambda case: case["input"][:20])
def test_captions(case):
    clip = Clip("a.mp4", (case["input"],), 16, 16)
    cleaned = VideoData("none", 1, size=(16, 16), caption_drop=0.0)
    plain = VideoData("none", 1, size=(16, 16), caption_drop=0.0, clean_captions=False)
    assert draw_caption(clip, cleaned, random.Random(0)) == case["clean"]
    assert draw_caption(clip, plain, random.Random(0)) == case["plain"]


def test_captions_are_drawn_dropped_and_noticed():
    data = VideoData("none", 1, size=(16, 16), caption_drop=0.25, default_caption_share=0.5, aesthetic_notice=True)
    clip = Clip("a.mp4", ("A Cat", "a dog"), 16, 16, aesthetic=6.0)
    counts = Counter()
    for seed in range(300):
        caption = draw_caption(clip, data, random.Random(seed))
        if caption in ("", *map(clean_prompt, DEFAULTS), *DEFAULTS):
            counts["dropped"] += 1
            counts["empty"] += caption == ""
        else:
            animal = "cat" if "a cat" in caption else "dog"
            assert f"a {animal}" in caption and "aesthetic quality" in caption and "video" in caption
            counts[animal] += 1
            counts["before"] += not caption.startswith(f"a {animal}")
    # five standard deviations of the binomial counts
    for name, share in {"dropped": 0.25, "empty": 0.125, "cat": 0.375, "dog": 0.375, "before": 0.375}.items():
        assert abs(counts[name] - 300 * share) < 5 * (300 * share * (1 - share)) ** 0.5, name
    middling = clip._replace(aesthetic=5.0)
    assert "quality" not in draw_caption(
        middling, VideoData("none", 1, size=(16, 16), aesthetic_notice=True), random.Random(1)
    )


@pytest.mark.parametrize("case", COLLATE["cases"], ids=lambda case: str(case["input"]["shapes"]))
def test_collate(case):
    config, shapes = case["input"]["collate"], case["input"]["shapes"]
    videos = [np.arange(np.prod(shape), dtype=np.float32).reshape(shape).transpose(1, 2, 3, 0) for shape in shapes]
    size = None if config["group_data"] else (config["num_frames"], config["max_height"], config["max_width"])
    if size is None:
        videos = one_shape(videos, random.Random(0))
    video, mask = collate(videos, (config["ae_stride_t"], 8, 8), size)
    if "error" in case:  # upstream requires grouped clips of whole tokens
        assert not mask.all()
        return
    assert [video.shape[axis] for axis in (0, 4, 1, 2, 3)] == case["video_shape"]
    assert list(mask.shape) == case["mask_shape"]
    for latents, (t, h, w) in zip(mask, case["mask_valid_thw"]):
        assert latents[:t, :h, :w].all() and latents.sum() == t * h * w
    np.testing.assert_allclose(video.sum((1, 2, 3, 4)), case["video_sum"], rtol=1e-5)  # the golden's own tolerance


def test_collated_clips_do_not_share_memory():
    """Upstream returned one record for the whole batch."""
    video, _ = collate([np.zeros((1, 16, 16, 3)), np.ones((1, 16, 16, 3))], (8, 8, 8))
    assert video[0].max() == 0 and video[1].min() == 1


def test_mixed_batches_have_one_size():
    data = VideoData("none", 33, max_pixels=256**2, grouped=False)
    assert box_of(["33x144x256", "1x256x144", "33x16x16"], data) == (33, 256, 256)
    assert box_of(["33x144x256"], VideoData("none", 33, max_pixels=256**2)) is None


@pytest.mark.parametrize("case", SAMPLER["cases"], ids=lambda case: str(case["params"]["len_seed"]))
def test_the_sampler_equals_upstream(case):
    config, buckets = case["params"], case["lengths"]
    batch, world = config["batch_size"], config["world_size"]
    generator, groups = TorchGenerator(config["seed"]), grouped(buckets)
    assert [buckets[group[0]] for group in groups] == case["group_order"]
    permutations = [generator.permutation(len(group)) for group in groups]
    assert [permutation.tolist() for permutation in permutations] == case["group_perms"]
    order = np.concatenate([group[permutation] for group, permutation in zip(groups, permutations)])
    batches = upstream_batches(order, buckets, batch, world, generator, random.Random(config["py_seed"]))
    skipped = config["init"] * config["ga"]
    for flat, skip in (("flat_v15", skipped // config["enc_dp"]), ("flat_v13", skipped)):
        if case[flat] is not None:
            assert batches[skip:].ravel().tolist() == case[flat]
    orders = [GroupedOrder(buckets, batch, world, rank, config["seed"], upstream_compat=True) for rank in range(world)]
    assert orders[0].steps_per_epoch == len(batches)
    if not case["needs_python_random"]:
        steps = [[order(step).tolist() for order in orders] for step in range(len(batches))]
        assert steps == batches.tolist()


@pytest.mark.full
def test_the_permutation_is_torchs():
    import torch

    for count in (0, 1, 2, 1000):
        expected = torch.randperm(count, generator=torch.Generator().manual_seed(7))
        assert TorchGenerator(7).permutation(count).tolist() == expected.tolist()


def drawn(examples):
    """The same draws in every run."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


bucket_lists = st.lists(st.sampled_from(["1x256x256", "29x256x256", "57x144x256"]), min_size=1, max_size=60)


@drawn(60)
@given(buckets=bucket_lists, batch=st.integers(1, 4), world=st.integers(1, 4), seed=st.integers(0, 2**33))
def test_an_epoch_uses_every_clip_once(buckets, batch, world, seed):
    orders = [GroupedOrder(buckets, batch, world, rank, seed) for rank in range(world)]
    (steps,) = {order.steps_per_epoch for order in orders}
    counts = Counter(buckets)
    assert steps == sum(-(-count // (batch * world)) for count in counts.values())
    for epoch in range(2):
        used = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            parts = [order(step) for order in orders]  # each rank draws for itself, so equal draws mean equal seeds
            assert {len(part) for part in parts} == {batch}
            clips = np.concatenate(parts).tolist()
            (bucket,) = {buckets[clip] for clip in clips}
            if counts[bucket] >= batch * world:
                assert len(set(clips)) == batch * world  # ranks share no clip
            used.update(clips)
        assert used.keys() == set(range(len(buckets)))
        # beyond once each come only the clips that fill up the last batch of a bucket
        extra = {bucket: -count % (batch * world) for bucket, count in counts.items()}
        for bucket in counts:
            repeats = sum(used[i] - 1 for i in range(len(buckets)) if buckets[i] == bucket)
            assert repeats == extra[bucket]


@drawn(30)
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=3), batch=st.integers(1, 3), world=st.integers(1, 3))
def test_epoch_0_is_upstreams_where_buckets_divide(counts, batch, world):
    buckets = [f"{i}x16x16" for i, count in enumerate(counts) for _ in range(count * batch * world)]
    random.Random(0).shuffle(buckets)
    for rank in range(world):
        mended, upstream = (GroupedOrder(buckets, batch, world, rank, upstream_compat=flag) for flag in (False, True))
        steps = range(mended.steps_per_epoch)
        assert [mended(step).tolist() for step in steps] == [upstream(step).tolist() for step in steps]


def test_epochs_differ_and_any_step_can_be_asked_for():
    buckets = ["1x16x16"] * 40
    order = GroupedOrder(buckets, 4)
    epochs = [[order(step).tolist() for step in range(10 * epoch, 10 * epoch + 10)] for epoch in range(2)]
    assert epochs[0] != epochs[1]
    assert GroupedOrder(buckets, 4)(13).tolist() == order(13).tolist()


@drawn(200)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    max_pixels=st.integers(64**2, 1024**2),
    five=st.booleans(),
    stride=st.sampled_from([16, 32]),
)
def test_sizes_are_legal(height, width, max_pixels, five, stride):
    data = VideoData("none", 1, max_pixels=max_pixels, five_ratios=five, pixel_stride=stride)
    fit = sizes.fit(height, width, data)
    box, (rows, columns) = fit.keep, fit.resize
    assert box.height % stride == 0 and box.width % stride == 0
    assert 0 <= box.top <= rows - box.height and 0 <= box.left <= columns - box.width
    assert box.height * box.width <= max_pixels


@drawn(200)
@given(
    count=st.integers(1, 2000),
    start=st.integers(0, 50),
    fps=st.floats(5, 120),
    speed=st.sampled_from([1.0, 1.5, 2.0]),
    short=st.sampled_from([0.0, 1.0]),
    frames=st.sampled_from([33, 57, 121]),
    line=st.sampled_from(["v1.5", "v1.3"]),
    seed=st.integers(0, 9),
)
def test_a_sample_has_the_length_of_its_bucket(count, start, fps, speed, short, frames, line, seed):
    """Upstream's filter ignores the speed factor, so that its counts can disagree with what is decoded."""
    data = VideoData("none", frames, size=(16, 16), speed_factor=speed, drop_short_ratio=short)
    clip = Clip("a.mp4", ("x",), 16, 16, count, fps, start)
    reason, bucket = judge(clip, data, line, np.random.default_rng(0))
    numbers = draw_frames(clip, data, random.Random(seed))
    if reason is None:
        length = int(bucket.split("x")[0])
        assert len(numbers) == length and (length - 1) % 8 == 0 and 29 <= length <= frames
        assert start <= numbers.min() and numbers.max() < start + count and (np.diff(numbers) >= 0).all()
        assert line == "v1.3" or (np.diff(numbers) > 0).all()


def test_the_rules_of_v1_3():
    """No rule on the raw size and on the frame rate; the window of ratios belongs to the sample."""
    buckets = VideoData("none", 33, max_pixels=256**2, min_pixels=64**2, five_ratios=False, drop_short_ratio=0.0)
    fixed = VideoData("none", 33, size=(256, 512))

    def reason(height, width, data, line, fps=24.0):
        return judge(Clip("a.mp4", ("x",), height, width, 40, fps), data, line, np.random.default_rng(0))

    assert reason(100, 100, buckets, "v1.3") == (None, "33x96x96")
    assert reason(300, 601, buckets, "v1.5") == ("aspect", "")
    assert reason(300, 601, buckets, "v1.3") == (None, "33x176x352")  # 1 : 2 once cut to whole tokens
    assert reason(120, 300, buckets, "v1.3") == ("aspect", "")
    assert reason(256, 512, fixed, "v1.5", fps=20.0) == ("fps_too_low", "")
    assert reason(256, 512, fixed, "v1.3", fps=20.0) == (None, "33x256x512")  # frames are repeated
    assert reason(256, 512, fixed, "v1.3", fps=30.0) == ("too_short", "")  # 32 of the 40 are left
    assert reason(512, 512, fixed, "v1.3") == (None, "33x256x512")  # window 0.25 to 1 around 1 : 2
    assert reason(520, 512, fixed, "v1.3") == ("aspect", "")


def test_nothing_left_is_an_error_with_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"path": "a.mp4", "cap": "x", "resolution": {"height": 9, "width": 9}, "num_frames": 40, "fps": 24}\n'
        '{"path": "b.mp4"}\n{"path": "c.avi.txt", "cap": "x"}\n'
        '{"path": "d.jpg", "cap": "x", "resolution": {"height": 256, "width": 256}}\n'
    )
    data = VideoData("m.txt", 33, size=(256, 256))
    with pytest.raises(InputError, match="no clip is left") as caught:
        filter_clips([DataSet(tmp_path, tmp_path / "a.jsonl")], data, "v1.5")
    for part in (
        "1 no caption",
        "1 neither a video nor a picture",
        "a.jsonl, record 3",
        "1 of 4 clips",
        "raw_too_small",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"frames": 30}, "1 + 8k; nearest legal: 25 or 33"),
        ({"frames": 33, "sequence_parallel": 4}, "25 + 32k; nearest legal: 25 or 57"),
        ({"size": (250, 256)}, "data.size = 250: must be a multiple of 16; nearest legal: 256"),
        ({"max_pixels": 65536}, "give exactly one"),
        ({"size": None}, "give exactly one"),
        ({"caption_drop": 1.5}, "must lie in [0, 1]"),
        ({"fps": 0.0}, "must lie in (0, 1000]"),
        ({"workers": 0}, "must be at least 1"),
        ({"aspect": (2.0, 1.0)}, "two rising numbers"),
        ({"pixel_stride": 24}, "must be a multiple of 16"),
        ({"merge_file": ""}, "must name a file"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(InputError) as caught:
        VideoData(**{"merge_file": "m.txt", "frames": 33, "size": (256, 256)} | changes)
    assert words in str(caught.value)
