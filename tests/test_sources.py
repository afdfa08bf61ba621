"""A training takes clips and captions from any source: only the entry point knows the procedural ones."""

import ast
from pathlib import Path

import numpy as np
import pytest
from fuzzing import HARM, fuzz, harmed
from hypothesis import given
from hypothesis import strategies as st

from mindsora.data import latents
from mindsora.data.latents import Latents
from mindsora.data.order import EpochOrder
from mindsora.data.toy.procedural import clip
from mindsora.data.toy.source import ProceduralClips
from mindsora.errors import InputError
from mindsora.models.wfvae import WFVAEConfig
from mindsora.train.methods import autoencoder
from mindsora.train.methods.captioned_latents import captioned_latents
from mindsora.train.recipe import VAEData

PACKAGE = Path(__file__).parents[1] / "mindsora"


class Grays:
    """Clip `index` has gray level `index`."""

    frames, fps, template = 5, 24, "nano"

    def __len__(self):
        return 6

    def identity(self):
        return {"grays": 6}

    def video(self, index):
        return np.full((5, 16, 16, 3), index, np.uint8)

    def caption(self, index, rng):
        return f"a gray of level {index}"


def test_windows_come_from_the_given_source():
    config = WFVAEConfig(base_channels=8, latent_dim=4)
    data = VAEData(clips=6, batch=3, frames=5, size=16, crop_frames=5, crop_size=8)
    pixels, noise = autoencoder.batches(data, 0, Grays(), config)(0)
    assert pixels.shape == (3, 5, 8, 8, 3) and noise.shape == (3, 2, 1, 1, 4)
    levels = EpochOrder(0, 6, 3)(0)
    np.testing.assert_allclose(pixels[:, 0, 0, 0, 0], levels / 127.5 - 1, rtol=0, atol=1e-6)  # float32


def test_captions_and_latents_of_one_clip_come_together():
    mean = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1, 1)  # clip i has latent i
    one = np.ones((1, 1, 1, 1), np.float32)
    encoded = Latents(mean, np.full_like(mean, -30), 0 * one, one)
    captions = []

    def tokenizer(texts):
        captions.append(texts)
        return np.zeros((len(texts), 2), np.int32), np.ones((len(texts), 2), np.int32)

    def levels(rng, x0):
        return np.zeros(len(x0), np.float32)

    batch = captioned_latents(0, EpochOrder(0, 6, 3), Grays(), encoded, levels, (tokenizer,), dropout=0.0)
    x0, *_ = batch(1)
    assert captions == [[f"a gray of level {level}" for level in np.round(x0.ravel()).astype(int)]]
    captioned_latents(0, EpochOrder(0, 6, 3), Grays(), encoded, levels, (tokenizer,), dropout=1.0)(1)
    assert captions[1] == ["", "", ""]


@pytest.mark.full
@fuzz(300)
@given(st.lists(HARM, min_size=1, max_size=3), st.sampled_from((1.0, 0.2)))
def test_a_harmed_file_of_latents_is_what_it_was_or_is_found(tmp_path, harms, share):
    path, names, identity = tmp_path / "latents", ("mean", "logvar"), {"vae": "0" * 64} | Grays().identity()
    arrays = {name: np.arange(24, dtype=np.float32).reshape(6, 1, 1, 2, 2) + len(name) for name in names}
    path.unlink(missing_ok=True)
    latents._kept(path, identity, names, lambda: arrays)
    path.write_bytes(harmed(path.read_bytes(), [(name, where * share, *rest) for name, where, *rest in harms]))
    try:
        read = latents._kept(path, identity, names, dict)
    except InputError as error:
        assert len(str(error)) < 4000 and str(error).isprintable()
        return
    for array, name in zip(read, names, strict=True):
        np.testing.assert_array_equal(array, arrays[name], strict=True)


def test_procedural_clips_are_the_clips_of_their_numbers():
    source = ProceduralClips(10, 5, 32, split="heldout")
    video, _, shown = clip(7, "heldout", 32, 5)
    np.testing.assert_array_equal(source.video(7), video)
    captions = {source.caption(7, np.random.RandomState(seed)) for seed in range(30)}
    assert len(captions) > 5 and all(thing.colour in text for text in captions for thing in shown.things)
    assert len(source) == 10
    assert len({str(ProceduralClips(*values).identity()) for values in OTHER}) == len(OTHER)


OTHER = ((10, 5, 32), (11, 5, 32), (10, 9, 32), (10, 5, 64), (10, 5, 32, "heldout"))


def test_shared_modules_do_not_import_the_toy_data():
    shared = [path for path in (PACKAGE / "train").rglob("*.py") if path != PACKAGE / "train" / "__init__.py"]
    shared += (PACKAGE / "data").glob("*.py")
    for path in shared:
        modules = [n.module or "" for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        assert not any("data.toy" in module for module in modules), path
