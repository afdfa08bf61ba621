"""What a feature cache stores and a training looks up: windows of files, texts, and their features."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from mindspore import Tensor
from safetensors.numpy import load_file, save_file
from stage_files import RECIPES, tiny, write_files

from mindsora import cli
from mindsora.data.annotations import Clip
from mindsora.data.captions import all_captions, draw_caption
from mindsora.data.clips import ClipSet, open_clips
from mindsora.data.filtering import Dropped
from mindsora.data.settings import VideoData
from mindsora.errors import InputError
from mindsora.train.encoders import Encoders
from mindsora.train.features import Features, fill
from mindsora.train.methods.stage import StageBatches, objective_of


def test_windows_are_chosen_once():
    data = VideoData("none", 9, size=(32, 32), min_frames=9, fps=8, windows=3)
    clip = Clip("folder/film.mp4", ("a film",), 64, 64, num_frames=100, fps=8.0)
    moved = ClipSet([clip._replace(path="elsewhere/film.mp4")], ["9x32x32"], Dropped(), data, "v1.5")
    clips = ClipSet([clip], ["9x32x32"], Dropped(), data, "v1.5")
    windows = {tuple(clips.window(0, number)) for number in range(3)}
    drawn = {tuple(moved.frame_numbers(0, random.Random(seed))) for seed in range(100)}
    assert drawn == windows and len(windows) == 3 and all(len(window) == 9 for window in windows)


def test_all_captions_are_those_that_can_be_drawn():
    clip = Clip("film.mp4", ("A Film", "a dog"), 64, 64, num_frames=100, fps=8.0, aesthetic=6.0)
    for aesthetic, notices in ((6.0, 20), (4.0, 20), (5.0, 1), (None, 1)):
        for notice in (True, False):
            data = VideoData("n", 9, size=(32, 32), aesthetic_notice=notice, caption_drop=0.0, clean_captions=False)
            scored, rng = clip._replace(aesthetic=aesthetic), random.Random(0)
            drawn = {draw_caption(scored, data, rng) for _ in range(600)}
            assert drawn == set(all_captions(scored, data)) and len(drawn) == 2 * (notices if notice else 1)


@pytest.fixture(scope="module")
def suv(tmp_path_factory):
    return tiny_pipeline.write(tmp_path_factory.mktemp("models") / "suv")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder, videos=3)
    return folder


@pytest.fixture(scope="module")
def encoders(suv):
    return Encoders(str(suv))


def cached(files, folder, *more):
    """A recipe whose clips and texts are cached in `folder`."""
    few = "data.frames=9", "data.windows=2", "data.aesthetic_notice=false", f"cache={folder}"
    return tiny("v1_5", "video_1", files, files, *few, *more)


def filling(recipe, encoders, *part):
    return fill(Path(recipe.cache), open_clips(recipe.data, "v1.5"), encoders, True, *part)


def batches_of(recipe, encoders, features):
    return StageBatches(recipe, open_clips(recipe.data, "v1.5"), encoders, objective_of(recipe), features)


def keys(folder):
    """Key -> array of every shard, each key once."""
    found = [pair for path in folder.glob("*.safetensors") for pair in load_file(path).items()]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.fixture(scope="module")
def filled(files, encoders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    counts = filling(cached(files, folder), encoders)
    # 3 clips, 2 windows; captions "noise number n" and "noise", three general ones, and the empty one
    assert counts == {"clips": 6, "texts": 3 + 1 + 3 + 1, "unreadable": 0}
    return folder


@pytest.mark.full
def test_a_second_call_adds_nothing_and_two_processes_share_the_work(files, encoders, filled, tmp_path):
    before = keys(filled)
    assert filling(cached(files, filled), encoders) == {"clips": 0, "texts": 0, "unreadable": 0}
    counts = [filling(cached(files, tmp_path), encoders, part, 2)["clips"] for part in range(2)]
    assert counts == [4, 2]
    both = keys(tmp_path)
    assert both.keys() == before.keys()
    for key, array in both.items():
        # Texts are encoded in other groups here; float16 has 11 bits.
        np.testing.assert_allclose(array.astype(np.float32), before[key].astype(np.float32), rtol=2e-3, atol=2e-3)


@pytest.mark.full
def test_an_interrupted_filling_goes_on(files, encoders, tmp_path, monkeypatch):
    """What was encoded before the interrupt stays, and only the rest is encoded."""
    recipe, seen, frames = cached(files, tmp_path), [], ClipSet.frames

    def interrupted(clips, index, numbers):
        seen.append(index)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return frames(clips, index, numbers)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ClipSet, "frames", interrupted)
        filling(recipe, encoders)
    assert sum(key.startswith("clip/") for key in keys(tmp_path)) == 3
    assert filling(recipe, encoders) == {"clips": 3, "texts": 0, "unreadable": 0}


@pytest.mark.full
def test_a_batch_from_a_cache_is_a_batch_without_one(files, encoders, filled):
    """The loss is given the same arrays. Features are float16 in both; sums may run in another order over clips."""
    recipe = cached(files, filled)
    with_cache = batches_of(recipe, encoders, Features(filled, encoders))
    without = batches_of(recipe, encoders, None)
    for (_, one), (_, other) in zip(with_cache(range(4)), without(range(4)), strict=True):
        assert one[0].shape == (2, 8, 2, 4, 4) and one[0].dtype == np.float16 and other[0].shape == (2, 3, 9, 32, 32)
        given, expected = (
            batch.encoded(*map(Tensor, arrays)) for batch, arrays in ((with_cache, one), (without, other))
        )
        for left, right in zip(given, expected, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_allclose(left.asnumpy(), right.asnumpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.full
def test_batches_from_a_cache_decode_nothing(files, encoders, filled, monkeypatch):
    batches = batches_of(cached(files, filled), encoders, Features(filled, encoders))
    monkeypatch.setattr(ClipSet, "frames", None)
    assert len(list(batches(range(6)))) == 6


@pytest.mark.full
def test_an_unreadable_file_is_remembered_and_replaced(encoders, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    write_files(folder, videos=3)
    (folder / "1.mp4").write_bytes(b"no video")
    recipe = cached(folder, tmp_path / "cache")
    assert filling(recipe, encoders) == {"clips": 4, "texts": 8, "unreadable": 2}
    assert filling(recipe, encoders) == {"clips": 0, "texts": 0, "unreadable": 0}
    batches = batches_of(recipe, encoders, Features(tmp_path / "cache", encoders))
    assert all(arrays[0].shape == (2, 8, 2, 4, 4) for _, arrays in batches(range(4)))


@pytest.mark.full
def test_what_the_cache_lacks_is_named(files, encoders, filled):
    features = Features(filled, encoders)
    batches = batches_of(cached(files, filled, "data.windows=5"), encoders, features)
    with pytest.raises(InputError, match="lacks a clip .*`mindsora data cache"):
        list(batches(range(12)))
    with pytest.raises(InputError, match="lacks a caption"):
        features.texts(["a text that no clip has"])


@pytest.mark.full
def test_features_of_other_encoders_are_refused(files, suv, encoders, filled, tmp_path):
    other = shutil.copytree(suv, tmp_path / "other")
    weights = other / "text_encoder" / "model.safetensors"
    save_file({key: array + np.float32(1e-3) for key, array in load_file(weights).items()}, weights)
    encoders = Encoders(str(other))
    for use in (lambda: Features(filled, encoders), lambda: filling(cached(files, filled), encoders)):
        with pytest.raises(InputError, match="text_encoder/model.safetensors' differs"):
            use()


def test_bad_requests_are_one_clear_error(files, tmp_path, capsys):
    recipe = str(RECIPES / "v1_5" / "train" / "video_1.yaml")
    for arguments, message in [
        (["cache", "--recipe", recipe], "give cache=FOLDER"),
        (["cache", "--recipe", recipe, "--part", "5/4"], "must be K/N"),
        (["cash", "--recipe", recipe], "invalid choice"),
    ]:
        assert cli.main(["data", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="data.windows = None"):
        filling(cached(files, tmp_path, "data.windows=null"), None)
