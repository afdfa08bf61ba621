"""The planner against published counts, against counts of the Cells as they run, and against the Cells' own checks."""

import json
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_pipeline
from golden_file import FOLDER
from mindspore import Tensor, nn, ops

from mindsora import cli, zoo
from mindsora.audit import memory
from mindsora.audit.devices import DEVICES
from mindsora.audit.plan import describe, plan
from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.models import SUV, WFVAE, CausalVAE, CLIPTextModel, OpenSoraInpaint, OpenSoraT2V, T5Encoder, registry
from mindsora.models.suv import SUVConfig
from mindsora.models.suv import cost as suv_cost
from mindsora.models.wfvae import WFVAEConfig
from mindsora.models.wfvae import cost as wfvae_cost
from mindsora.nn.conv import Conv3d
from mindsora.released import released
from mindsora.shapes import ShapeRules, chunks

ROOT = Path(__file__).parents[1]
RELEASED_VAES = json.loads((FOLDER / "keys/autoencoders.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny")


# Published counts


def test_released_denoiser_costs_what_was_computed_for_it():
    """121 x 576 x 1024, one sample without guidance. An independent count of these TFLOP uses the released configuration,
    with two operations for a multiply-add, from the equations of `SparseUMMDiT` (Open-Sora Plan v1.5.0)."""
    config = SUVConfig.from_upstream(read_json(zoo.configuration("v1.5") / "transformer/config.json"))
    sparse, dense = (suv_cost.operations(one, 36_864, 512) for one in (config, suv_cost.dense(config)))
    assert round(sparse["attention"] / 1e12, 1) == 215.7 and round(dense["attention"] / 1e12, 1) == 549.3
    assert round(sparse["skip"] / 1e12, 1) == 4.2 and sparse["other"] < 0.1e12
    # Printed without the last block's text, which the checkpoint's layout keeps.
    assert sparse["linear"] == dense["linear"] == pytest.approx(270.8e12, rel=5e-4)
    assert sparse.total() == pytest.approx(490.8e12, rel=2e-4) and dense.total() == pytest.approx(824.4e12, rel=2e-4)
    assert round(dense.total() / sparse.total(), 2) == 1.68
    assert round(dense["attention"] / sparse["attention"], 2) == 2.55


@pytest.mark.parametrize(
    "name, stride, size, encode, decode",
    [
        ("wfvae_888_v1_5", 8, (121, 576, 1024), "63.3", "372.9"),
        ("wfvae_888_v1_5", 8, (33, 256, 256), "1.95", "11.7"),
        ("wfvae_888_v1_5", 8, (1, 256, 256), "0.23", "1.05"),
        ("wfvae_488_v1_3_8ch_ef64_128_c2", 4, (121, 576, 1024), "67.5", "329.3"),
        ("wfvae_488_v1_3_8ch_ef64_128_c2", 4, (93, 480, 640), "26.1", "131.2"),
        ("wfvae_488_v1_3_8ch_ef64_128_c2", 4, (33, 256, 256), "1.96", "10.1"),
        ("wfvae_l_488_16ch", 4, (121, 576, 1024), "148.5", "697.5"),
        ("wfvae_l_488_16ch", 4, (33, 256, 256), "4.42", "21.5"),
    ],
)
def test_released_autoencoders_cost_what_was_computed_for_them(name, stride, size, encode, decode):
    """TFLOP of an independent count from the layers of `WFVAEModel` (Open-Sora Plan v1.5.0, v1.3.0, WF-VAE), with two
    operations for a multiply-add; convolutions and attention, compared to the printed digits."""
    config = SimpleNamespace(**RELEASED_VAES[name]["config"], temporal_stride=stride)
    frames, height, width = size
    latents = (frames - 1) // stride + 1, height // 8, width // 8
    for count, printed in ((wfvae_cost.encode(config, *size), encode), (wfvae_cost.decode(config, *latents), decode)):
        assert f"{count.total() / 1e12:.{len(printed.partition('.')[2])}f}" == printed


def test_released_weights_are_counted_from_the_cells():
    cells = memory.build(zoo.configuration("v1.5"), None, "Ascend")
    counted = {name: sum(p.size for p in cell.get_parameters()) for name, cell in cells.items()}
    counted["vae"] += 192  # checkpoints also hold the Haar kernels
    assert counted == released("v1.5").parameters
    assert memory.weights(cells["transformer"]) == 2 * counted["transformer"]  # bfloat16
    assert memory.weights(cells["vae"]) == 4 * (counted["vae"] - 192)  # float32, as the pipeline keeps it


# Counts of the Cells as they run


@pytest.fixture
def products(monkeypatch):
    """Count the cost of every matrix product that runs from now on: MatMul as linear, BatchMatMul as attention."""
    monkeypatch.setenv("MINDSORA_KERNELS", "skiparse_attention=reference")
    count = Counter()
    for primitive, kind in ((ops.MatMul, "linear"), (ops.BatchMatMul, "attention")):
        original = primitive.__call__

        def counted(self, a, b, original=original, kind=kind):
            out = original(self, a, b)
            if kind == "linear" or a.shape[-2] > 1:  # a row of weights 1/n takes the mean over copies of the text
                count[kind] += 2 * out.size * a.shape[-1]
            return out

        monkeypatch.setattr(primitive, "__call__", counted)
    return count


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("latents, text", [((3, 4, 6), 7), ((2, 6, 6), 5)])
def test_denoiser_count(products, latents, text, tail):
    """Stages with n = 1, 2, 3 on 18 tokens: both sparse ones pad."""
    config = SUVConfig(
        num_layers=(2, 2, 2, 2, 2),
        sparse_n=(1, 2, 3, 2, 1),
        num_heads=2,
        head_dim=16,
        in_channels=4,
        out_channels=4,
        timestep_embed_dim=32,
        caption_channels=24,
        pooled_projection_dim=20,
        last_block_text=tail,
    )
    inputs = [(1, 4, *latents), (1,), (1, 1, text, 24), (1, 1, 20)]
    SUV(config)(*(Tensor(np.zeros(shape, np.float32)) for shape in inputs))
    tokens = latents[0] * latents[1] * latents[2] // 4
    expected = suv_cost.operations(config, tokens, text)
    assert products["attention"] == expected.pop("attention")
    assert products["linear"] == expected.total()


def test_text_encoder_counts(products, folder):
    ids = Tensor(np.ones((1, 11), np.int32))
    for cell_class, name in ((T5Encoder, "text_encoder"), (CLIPTextModel, "text_encoder_2")):
        products.clear()
        cell = cell_class.from_upstream(tiny_pipeline.CONFIGS[name][1])
        cell(ids)
        assert products == registry.spec_of(cell).cost.operations(cell.config, 11)


@pytest.mark.parametrize("stride", [8, 4])
def test_autoencoder_count(monkeypatch, stride):
    count = Counter()
    convolve, bmm = Conv3d.convolve, ops.bmm

    def counted_convolution(self, *inputs):
        y = convolve(self, *inputs)
        count["convolution"] += 2 * y.size * int(np.prod(self.full_shape[1:]))
        return y

    def counted_product(a, b):
        count["attention"] += 2 * a.size * b.shape[-1]
        return bmm(a, b)

    monkeypatch.setattr(Conv3d, "convolve", counted_convolution)
    monkeypatch.setattr(ops, "bmm", counted_product)
    config = WFVAEConfig(
        latent_dim=4,
        base_channels=8,
        encoder_num_resblocks=1,
        encoder_energy_flow_hidden_size=4,
        decoder_num_resblocks=2,
        decoder_energy_flow_hidden_size=6,
        connect_res_layer_num=1,
        temporal_stride=stride,
        scale=(1.0,),
        shift=(0.0,),
    )
    vae, frames = WFVAE(config), 4 * stride + 1
    vae.encode_moments(Tensor(np.zeros((1, 3, frames, 16, 24), np.float32)))
    assert count == wfvae_cost.encode(config, frames, 16, 24)
    latents = Tensor(np.zeros((1, 4, 5, 2, 3), np.float32))
    for chunked, expected in ((False, wfvae_cost.decode), (True, wfvae_cost.decode_chunked)):
        count.clear()
        vae.decode(latents, chunked=chunked)
        assert count == expected(config, 5, 2, 3)


def test_chunks_are_those_of_the_decoder(monkeypatch):
    """Every clip length up to the longest."""
    vae = WFVAE.from_upstream(tiny_pipeline.CONFIGS["vae"][1])
    seen = []

    def chunk(z, state=None):
        seen.append(z.shape[2])
        return Tensor(np.zeros((1, 3, 8 * z.shape[2], 8, 8), np.float32)), ()

    monkeypatch.setattr(vae, "decode_chunk", chunk)
    for frames in range(1, 17):
        seen.clear()
        vae.decode(Tensor(np.zeros((1, 4, frames, 1, 1), np.float32)), chunked=True)
        assert seen == [end - start for start, _, end in chunks(frames)]


# Legality


def legal(rules: ShapeRules, *size: int) -> bool:
    try:
        rules.check(*size)
    except InputError:
        return False
    return True


def emptied(denoiser):
    """Remove the denoiser's blocks: the rest accepts or refuses a size, and returns the same size as before."""
    stages = [[] for stage in denoiser.transformer_blocks if isinstance(stage, nn.CellList)]  # v1.3's has no stages
    del denoiser.transformer_blocks  # a Cell's attribute cannot become a list
    denoiser.transformer_blocks = stages
    return denoiser


CHECKED = {
    "v1.5": lambda: (
        WFVAE(WFVAEConfig(temporal_stride=8, base_channels=4, latent_dim=4, scale=(1.0,), shift=(0.0,))),
        SUV.from_upstream(tiny_pipeline.CONFIGS["transformer"][1]),
    ),
    "v1.3": lambda: (
        WFVAE.from_upstream(tiny_pipeline.WFVAE_4),
        OpenSoraT2V.from_upstream(tiny_pipeline.TASKS["t2v"][1]),
    ),
    "v1.3_i2v": lambda: (
        CausalVAE.from_upstream(tiny_pipeline.CAUSALVAE),
        OpenSoraInpaint.from_upstream(tiny_pipeline.TASKS["i2v"][1]),
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_legal_is_what_the_autoencoder_takes_and_the_denoiser_gives_back_whole(monkeypatch, name):
    """The Cells decide every size up to 34 frames and 65 x 65 pixels: autoencoders refuse a size, denoisers refuse one
    below a patch and do not return an odd row or column of latents."""
    vae, denoiser = CHECKED[name]()
    rules = ShapeRules((vae.config.temporal_stride, 8, 8), denoiser.config.patch_size, 34, 65, 65)
    monkeypatch.setattr(vae, "moments", lambda x, chunked: None)  # after the check
    denoiser = emptied(denoiser)
    others = [Tensor(np.zeros(shape, np.float32)) for shape in ((1,), (1, 1, 3, 24), (1, 1, 20))]
    channels = getattr(denoiser, "channels", denoiser.config.in_channels)

    @cache
    def given_back(height, width):  # frames are not cut into patches
        latents = np.zeros((1, channels, 2, height, width), np.float32)
        try:
            return denoiser(Tensor(latents), *others).shape[3:] == (height, width)
        except ValueError:
            return False

    def taken(frames, height, width):
        try:
            vae.encode_moments(SimpleNamespace(shape=(1, 3, frames, height, width)))
        except ValueError:
            return False
        return given_back(height // 8, width // 8)

    sizes = range(1, 66)
    for frames in range(1, 35):
        for height in sizes:
            for width in sizes:
                assert legal(rules, frames, height, width) == taken(frames, height, width), (frames, height, width)


# The whole plan


def test_skiparse_padding(folder):
    """18 tokens and n = 2: two more. 64 divides 36,864."""
    stages = plan(folder, (9, 32, 48))["skiparse"]
    assert [stage["padding"] for stage in stages] == [0, 0, 0] and stages[1]["tokens_per_subsequence"] == 6
    stages = plan("v1.5", (9, 48, 48))["skiparse"]  # 2 x 3 x 3 = 18 tokens
    assert [stage["padding"] for stage in stages] == [0, 2, 14, 46, 14, 2, 0]
    assert not any(stage["padding"] for stage in plan("v1.5")["skiparse"])


def test_released_plan():
    found = plan("v1.5", device="910b2")
    assert found["latents"] == [32, 16, 72, 128] and found["tokens"]["visual"] == 36_864
    assert found["flops"]["clip"]["denoise"] == 100 * found["flops"]["denoiser"]["total"]  # 50 steps, two rows
    assert found["flops"]["vae_decode_as_run"]["total"] > found["flops"]["vae_decode"]["total"]  # look-ahead, twice
    assert found["graphs"] == {"encode_prompt": 1, "denoise": 1, "decode": 2}
    parts = found["memory"]["components"]
    assert sum(part["weights"] for part in parts.values()) == pytest.approx(20.4 * 2**30, rel=0.01)
    assert found["memory"]["peak_offload"] < found["memory"]["peak"] < found["memory"]["available"]
    half = plan("v1.5", device="910b2", guidance_scale=1.0)
    assert half["flops"]["clip"]["denoise"] * 2 == found["flops"]["clip"]["denoise"]
    json.dumps(found)
    text = describe(found)
    assert "36,864 visual" in text and "dense / sparse: 1.68, attention alone 2.55" in text
    assert "model, not a measurement" in text and "not measured" not in text
    for name, part in parts.items():  # weights, and their share that offload holds
        assert f"{name:14} {part['dtype']:9} {part['weights'] / 2**30:8.2f} {part['held'] / 2**30:13.2f} " in text


@pytest.mark.full
def test_tiles():
    """3 x 5 tiles of 32 x 32 latents with at least 8 in common cover 72 x 128; the decoder then holds one tile."""
    whole, tiled = (plan("v1.5", device="910b2", tile=tile) for tile in (None, 256))
    assert (whole["clip"]["tiles"], tiled["clip"]["tiles"]) == (1, 15)
    one = plan("v1.5", (121, 256, 256), device="910b2")
    assert tiled["flops"]["clip"]["decode"] == 15 * one["flops"]["clip"]["decode"] > whole["flops"]["clip"]["decode"]
    assert tiled["flops"]["clip"]["denoise"] == whole["flops"]["clip"]["denoise"]
    vae = [found["memory"]["components"]["vae"]["activations"] for found in (whole, tiled, one)]
    assert vae[1] == vae[2] < vae[0] / 8
    assert "works in 15 tiles of at most 256 pixels" in describe(tiled)
    with pytest.raises(InputError, match="tile size = 100"):
        plan("v1.5", tile=100)


def test_memory_model_is_within_15_percent_of_measured_peaks(tmp_path, monkeypatch):
    """benchmarks/plan_memory.py measured the committed receipt on CPU: two models, two sizes each."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plan_memory

    plan_memory.write_model(tmp_path / "nano", plan_memory.NANO, weights=False)
    here, box = (memory.build(folder, None, "CPU") for folder in (tmp_path / "nano", zoo.find("nano")))
    assert {name: cell.config for name, cell in here.items()} == {name: cell.config for name, cell in box.items()}
    shutil.rmtree(tmp_path / "nano")
    receipt = json.loads((ROOT / "benchmarks/results/plan_memory.json").read_text())
    rows = {row["case"]: row for row in receipt["cases"]}
    assert rows.keys() == plan_memory.CASES.keys() and receipt["device"] == "CPU"
    for name, (configs, size) in plan_memory.CASES.items():
        plan_memory.write_model(tmp_path / name, configs, weights=False)
        told = plan_memory.planned(str(tmp_path / name), size, "CPU") / 2**20
        assert told == pytest.approx(rows[name]["peak_mib"], rel=plan_memory.LIMIT / 100), name


def test_faster_devices_and_larger_clips_order_the_estimates():
    times = {name: plan("v1.5", device=name)["time"]["total"] for name in DEVICES}
    assert times["910b1"] < times["910b2"] < times["910b3"] < times["910b4"] < times["cpu"]
    peaks = [plan("v1.5", (121, side, side))["memory"]["peak"] for side in (256, 512, 768)]
    assert peaks == sorted(peaks)


def test_refused(folder, capsys):
    command = ["plan", "--model", str(folder)]
    for options, words in (
        (["--frames", "10"], ["num_frames = 10", "1 + 8k", "nearest legal: 9 or 17"]),
        (["--height", "40"], ["height = 40", "a multiple of 16", "32 or 48"]),
        (["--width", "1024"], ["width = 1024", "nearest legal: 64"]),
        (["--steps", "0"], ["num_inference_steps = 0"]),
        (["--guidance-scale", "-1"], ["guidance_scale = -1", "nearest legal: 0"]),
        (["--guidance-scale", "nan"], ["guidance_scale = nan", "nearest legal: 3"]),
        (["--device", "910c"], ["'910c'", "910b2"]),
        (["--dtype", "bf16"], ["bfloat16", "CPU"]),
    ):
        assert cli.main(command + options) == 2
        captured = capsys.readouterr()
        assert not captured.out and len(captured.err.splitlines()) == 1
        assert all(word in captured.err for word in words), captured.err
    assert cli.main([*command, "--frames", "10", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["legal"] is False


def test_command(folder, capsys):
    assert cli.main(["plan", "--model", str(folder), "--frames", "17", "--height", "32", "--width", "64"]) == 0
    assert "17 x 32 x 64" in (text := capsys.readouterr().out) and "latents     4 x 3 x 4 x 8" in text
    assert cli.main(["plan", "--model", "v1.5", "--device", "910B2", "--dtype", "fp16", "--steps", "30", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clip"]["steps"] == 30 and found["memory"]["components"]["vae"]["dtype"] == "float16"
