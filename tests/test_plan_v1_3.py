"""The planner for v1.3: against counts by hand, published counts, and the products its Cells run."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from golden_file import FOLDER
from mindspore import Tensor, ops
from test_plan import products  # noqa: F401 (a fixture)

from mindsora import cli, zoo
from mindsora.audit.plan import describe, plan
from mindsora.config import read_json
from mindsora.models import CausalVAE, CausalVAEConfig, OpenSoraConfig, OpenSoraInpaint, OpenSoraT2V
from mindsora.models.causalvae import cost as causalvae_cost
from mindsora.models.opensora import OpenSoraInpaintConfig, cost
from mindsora.nn.conv import Conv3d
from mindsora.released import released

RELEASED_VAES = json.loads((FOLDER / "keys/autoencoders.json").read_text())
N, C, L = 24 * 22 * 40, 2304, 512  # tokens and width at 93 x 352 x 640; text


def test_released_denoiser_by_hand():
    """32 blocks: full attention in the first two and last two, a quarter of it in the others, since 16 divides N."""
    config = OpenSoraConfig.from_upstream(read_json(zoo.configuration("v1.3") / "transformer/config.json"))
    assert cost.stages(config) == [(2, 1), (28, 4), (2, 1)]
    sparse, dense = (cost.operations(one, N, L) for one in (config, cost.dense(config)))
    assert dense["attention"] == 32 * 4 * N * N * C and sparse["attention"] == (4 + 28 / 4) * 4 * N * N * C
    for count in (sparse, dense):
        assert count["cross_attention"] == 32 * 4 * N * L * C
        assert count["linear"] == 32 * 2 * C * C * (N * (4 + 2 + 8) + L * 2)
        patches, text = 2 * N * C * 4 * (8 + 8), 2 * L * (4096 * C + C * C)
        assert count["other"] == patches + text + 2 * (256 * C + C * C + 6 * C * C)


def test_what_the_inpainting_model_adds():
    """Patches of the masked video (8 channels) and of the mask (4), each followed by a layer."""
    shape = {"num_layers": 32, "num_attention_heads": 24, "attention_head_dim": 96}
    t2v = cost.operations(OpenSoraConfig(**shape), N, L)
    inpaint = cost.operations(OpenSoraInpaintConfig(**shape), N, L)
    assert inpaint - t2v == Counter(other=2 * N * C * 4 * (8 + 4) + 2 * 2 * N * C * C)


@pytest.mark.parametrize("latents, text", [((3, 4, 6), 7), ((2, 8, 8), 5)])
@pytest.mark.parametrize("cell, config", [(OpenSoraT2V, OpenSoraConfig), (OpenSoraInpaint, OpenSoraInpaintConfig)])
def test_denoisers_count(products, cell, config, latents, text):  # noqa: F811
    """18 tokens, which n = 4 pads to 32, and 32; blocks 2 and 3 are sparse."""
    config = config(
        num_layers=4, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, caption_channels=20
    )
    model = cell(config)
    inputs = [(1, model.channels, *latents), (1,), (1, 1, text, 20)]
    model(*(Tensor(np.zeros(shape, np.float32)) for shape in inputs))
    expected = cost.operations(config, latents[0] * latents[1] * latents[2] // 4, text)
    assert products["attention"] == expected.pop("attention") + expected.pop("cross_attention")
    assert products["linear"] == expected.total()


# CausalVAE


@pytest.mark.parametrize(
    "size, encode, decode",
    [
        ((121, 576, 1024), "327.2", "1500.9"),
        ((33, 256, 256), "9.92", "45.6"),
    ],
)
def test_released_causalvae_costs_what_was_computed_for_it(size, encode, decode):
    """TFLOP of an independent count from the layers of `CausalVAEModel` (Open-Sora Plan v1.2.0), with two operations
    for a multiply-add; convolutions and attention, compared to the printed digits."""
    config = CausalVAEConfig.from_upstream(RELEASED_VAES["causalvae_v1_2"]["config"])
    frames, height, width = size
    latents = (frames - 1) // 4 + 1, height // 8, width // 8
    for count, printed in (
        (causalvae_cost.encode(config, *size), encode),
        (causalvae_cost.decode(config, *latents), decode),
    ):
        assert f"{count.total() / 1e12:.{len(printed.partition('.')[2])}f}" == printed


@pytest.mark.parametrize("version", ["causalvae_v1_1", "causalvae_v1_2", "defaults"])
def test_causalvae_count(monkeypatch, version):
    """Whole and in chunks."""
    count, convolve, bmm = Counter(), Conv3d.convolve, ops.bmm

    def counted_convolution(self, *inputs):
        y = convolve(self, *inputs)
        count["convolution"] += 2 * y.size * int(np.prod(self.full_shape[1:]))
        return y

    def counted_product(a, b):
        if a.shape[-2] > 1:  # a row of ones sums for a group norm
            count["attention"] += 2 * a.size * b.shape[-1]
        return bmm(a, b)

    monkeypatch.setattr(Conv3d, "convolve", counted_convolution)
    monkeypatch.setattr(ops, "bmm", counted_product)
    config = {} if version == "defaults" else RELEASED_VAES[version]["config"]
    vae = CausalVAE.from_upstream(config | {"hidden_size": 32, "hidden_size_mult": [1, 1, 2, 2], "num_res_blocks": 1})
    video, latents = Tensor(np.zeros((1, 3, 21, 8, 16), np.float32)), Tensor(np.zeros((1, 4, 6, 1, 2), np.float32))
    for chunked, decode in ((False, causalvae_cost.decode), (True, causalvae_cost.decode_chunked)):
        count.clear()
        vae.encode_moments(video, chunked)
        assert count == causalvae_cost.encode(vae.config, 21, 8, 16)
        count.clear()
        vae.decode(latents, chunked)
        assert count == decode(vae.config, 6, 1, 2)


# The whole plan


@pytest.mark.parametrize("name", ["v1.3", "v1.3_i2v"])
def test_released_plan(name):
    found = plan(name, device="910b4")
    assert found["latents"] == [8, 24, 44, 80]
    assert found["tokens"] == {"visual": N, "text": L, "text_pooled": 0, "rows": 2}
    assert [
        (stage["blocks"], stage["sparse_n"], stage["padding"], stage["tokens_per_subsequence"])
        for stage in found["skiparse"]
    ] == [(2, 1, 0, N), (28, 4, 0, N // 4), (2, 1, 0, N)]
    clip = found["flops"]["clip"]
    assert clip["denoise"] == 200 * found["flops"]["denoiser"]["total"]  # 100 steps, two rows
    assert clip["encode"] == (found["flops"]["vae_encode"]["total"] if name == "v1.3_i2v" else 0)
    stages = plan(name, (93, 240, 240))["skiparse"]  # 24 x 15 x 15 = 5,400 tokens, 338 x 16 with 8 of padding
    assert [stage["padding"] for stage in stages] == [0, 8, 0] and stages[1]["tokens_per_subsequence"] == 1352
    json.dumps(found)
    assert "dense / sparse: 1.58, attention alone 2.91" in describe(found)


@pytest.mark.parametrize("name", ["v1.3", "v1.3_i2v"])
def test_released_memory(name):
    """Weights by component, and their share that offload holds: one block, no token table, all of the VAE."""
    memory, counts = plan(name, device="910b4")["memory"], released(name).parameters
    parts = memory["components"]
    assert parts.keys() == counts.keys()
    assert parts["transformer"]["weights"] == 2 * counts["transformer"]
    assert parts["text_encoder"]["weights"] == 2 * counts["text_encoder"]
    assert parts["vae"]["weights"] == 4 * (counts["vae"] - 128)  # without its Haar kernels
    active = {part: found["activations"] for part, found in parts.items()}
    assert active["transformer"] == 2 * N * C * (3 * 4 * 4 + 2 * 2)  # see mindsora.models.cost.feed_forward_bytes
    # The first chunk is the longest: 4 latent frames, so 7 of 176 x 320 x 256 in float32, six times, and 13 of pixels.
    assert active["vae"] == 6 * 4 * 7 * 176 * 320 * 256 + 3 * 4 * 13 * 352 * 640 * 3
    assert memory["peak"] == sum(found["weights"] for found in parts.values()) + max(active.values())
    block = 16 * C * C + 19 * C  # 8 attention projections, the feed-forward's 8, their biases, the modulation's table
    assert parts["transformer"]["held"] == 2 * (counts["transformer"] - 31 * block)
    block = 4 * 4096 * 4096 + 3 * 4096 * 10240 + 2 * 4096
    assert parts["text_encoder"]["held"] == 2 * (counts["text_encoder"] - 23 * block - 250_112 * 4096)
    assert parts["vae"]["held"] == parts["vae"]["weights"]
    held = sum(found["held"] for found in parts.values())
    assert memory["peak_offload"] == held + max(active.values()) < memory["available"]


def test_causalvae_in_a_model_of_v1_3(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(zoo.configuration("v1.3"), folder)
    shutil.copy(zoo.CONFIGURATIONS / "v1_2/vae/config.json", folder / "vae")
    index = read_json(folder / "model_index.json") | {"vae": ["mindsora", "CausalVAE"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    found, wavelet = plan(str(folder), device="910b2"), plan("v1.3", device="910b2")
    config = CausalVAEConfig.from_upstream(read_json(folder / "vae/config.json"))
    assert found["flops"]["clip"]["decode"] == causalvae_cost.decode_chunked(config, 24, 44, 80).total()
    assert found["graphs"]["decode"] == 1
    active = [one["memory"]["components"]["vae"]["activations"] for one in (found, wavelet)]
    assert active[0] > 93 * 352 * 640 * 256 * 2 * 4 > 10 * active[1]  # of the whole clip, not of a chunk


@pytest.mark.parametrize(
    "options, words",
    [
        (["--frames", "94"], ["num_frames = 94", "1 + 4k", "nearest legal: 93"]),
        (["--frames", "31"], ["num_frames = 31", "29 or 33"]),
        (["--height", "360"], ["height = 360", "a multiple of 16", "352 or 368"]),
        (["--width", "1280"], ["width = 1280", "nearest legal: 640"]),
    ],
)
@pytest.mark.parametrize("name", ["v1.3", "v1.3_i2v"])
def test_refused(name, options, words, capsys):
    assert cli.main(["plan", "--model", name, *options]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
