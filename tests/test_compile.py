"""A block that a model repeats is compiled once for each of its shapes and roles (CausalVAE's is not, see
mindsora/nn/video_group_norm.py), and right for every instance."""

from collections import Counter

import mindspore as ms
import numpy as np
import pytest
import tiny_pipeline
from golden_file import assert_close
from mindspore import Tensor, nn
from mindspore.graph._parse import parser

from mindsora.models import SUV, WFVAE, CausalVAE, CLIPTextModel, OpenSoraT2V, T5Encoder
from mindsora.nn.precision import set_precision

SUV_CONFIG = tiny_pipeline.CONFIGS["transformer"][1] | {"num_layers": [2, 6, 2]}
V1_3_CONFIG = tiny_pipeline.DENOISER_V1_3 | {"num_layers": 9}
WFVAE_CONFIG = tiny_pipeline.CONFIGS["vae"][1] | {"decoder_num_resblocks": 3, "connect_res_layer_num": 2}
CAUSALVAE_CONFIG = tiny_pipeline.CAUSALVAE | {
    "hidden_size_mult": [1, 1, 2, 2],
    "num_res_blocks": 2,
    "decoder_resnet_blocks": ["ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"],
}


@pytest.fixture
def parsed(monkeypatch):
    """How often MindSpore's front end has read each function: once for each graph it makes of it."""
    count, init = Counter(), parser.Parser.__init__

    def counted(self, function, *arguments, **options):
        count[getattr(function, "__qualname__", str(function))] += 1
        init(self, function, *arguments, **options)

    monkeypatch.setattr(parser.Parser, "__init__", counted)
    return count


def random(*shape: int, seed: int = 0, dtype=ms.float32) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def filled(cell: nn.Cell, seed: int = 0) -> nn.Cell:
    """Random weights in place of ones and zeros, so that an instance's are seen to be its own."""
    rng = np.random.default_rng(seed)
    for parameter in cell.get_parameters():
        noise = 0.05 * rng.standard_normal(parameter.shape, np.float32)
        parameter.set_data(Tensor(parameter.asnumpy() + noise))
    return cell.set_train(False)


def denoiser_inputs(frames: int = 2, dtype=ms.float32) -> tuple[Tensor, ...]:
    return (
        random(1, 4, frames, 4, 4, dtype=dtype),
        random(1),
        random(1, 1, 8, 24, dtype=dtype),
        random(1, 1, 20, dtype=dtype),
    )


@pytest.mark.parametrize("model, config, roles", [(SUV, SUV_CONFIG, 5), (OpenSoraT2V, V1_3_CONFIG, 4)])
def test_each_role_is_compiled_once(parsed, model, config, roles):
    """Two values of n, each single and group; and SUV's last block, which leaves the text alone."""
    denoiser = filled(model.from_upstream(config))
    jitted = ms.jit(denoiser)
    assert_close(jitted(*denoiser_inputs()), denoiser(*denoiser_inputs()).asnumpy(), 1e-5)  # sums in another order
    assert parsed["Block.construct"] == roles
    jitted(*denoiser_inputs(3))
    assert parsed["Block.construct"] <= 2 * roles  # another size is another graph, not another of each block


@pytest.mark.parametrize("name, block", [("text_encoder", "T5Block"), ("text_encoder_2", "CLIPBlock")])
def test_text_encoders(parsed, name, block):
    model, config = tiny_pipeline.CONFIGS[name]
    layers = "num_layers" if model is T5Encoder else "num_hidden_layers"
    cell = filled(model.from_upstream(config | {layers: 5}))
    ids = Tensor(np.random.default_rng(0).integers(3, 1000, (2, 7)).astype(np.int32))
    result, expected = ms.jit(cell)(ids), cell(ids)
    if model is CLIPTextModel:
        result, expected = result[0], expected[0]
    assert_close(result, expected.asnumpy(), 1e-5)
    assert parsed[f"{block}.construct"] == 1


@pytest.mark.full
def test_wfvae(parsed):
    """Decoder: as many graphs of its residual blocks as it has ones of different widths, depths or look-ahead."""
    vae = filled(WFVAE.from_upstream(WFVAE_CONFIG))
    z = random(1, 4, 3, 2, 2)
    assert_close(ms.jit(vae.decode_whole)(z), vae.decode(z).asnumpy(), 1e-5)
    blocks = [cell for _, cell in vae.decoder.cells_and_names() if type(cell).__name__.startswith("ResnetBlock")]
    different = {cell.cell_init_args for cell in blocks}
    read = parsed["ResnetBlock2D.construct"] + parsed["ResnetBlock3D.construct"]
    assert read == len(different) < len(blocks) / 1.5


@pytest.mark.full
def test_causalvae():
    """Blocks of equal arguments at several sizes of clip in one graph, each right."""
    vae = filled(CausalVAE.from_upstream(CAUSALVAE_CONFIG))
    z = random(1, 4, 3, 2, 2)
    assert_close(ms.jit(vae.decode_whole)(z), vae.decode(z).asnumpy(), 1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    "model, config",
    [
        (SUV, SUV_CONFIG | {"num_layers": [2, 2, 2]}),
        (OpenSoraT2V, V1_3_CONFIG | {"num_layers": 7}),
    ],
)
def test_models_of_one_configuration_stay_apart(model, config):
    """In one process: other weights, float16, training mode, each compiled after the others and called again."""
    first, second, half, training = (filled(model.from_upstream(config), seed) for seed in range(4))
    set_precision(half, ms.float16)
    training.set_train(True)
    cells = {
        cell: (ms.jit(cell), denoiser_inputs(dtype=dtype), limit)
        for cell, dtype, limit in (
            (first, ms.float32, 1e-5),
            (second, ms.float32, 1e-5),
            (half, ms.float16, 5e-3),
            (training, ms.float32, 1e-5),
        )
    }
    results = []
    for _ in range(2):
        for cell, (jitted, inputs, limit) in cells.items():
            result = jitted(*inputs).astype(ms.float32)
            assert_close(result, cell(*inputs).astype(ms.float32).asnumpy(), limit)
            results.append(result.asnumpy())
    assert min(np.abs(a - b).max() for i, a in enumerate(results[:4]) for b in results[:i]) > 0.01


def test_a_block_that_was_changed_has_its_own_graph():
    """An adapter in one of several equal blocks does not reach the others."""
    suv = filled(SUV.from_upstream(SUV_CONFIG))
    before = suv(*denoiser_inputs()).asnumpy()

    class Louder(nn.Cell):
        def __init__(self, inner):
            super().__init__(auto_prefix=False)
            self.inner = inner

        def construct(self, x):
            return 3 * self.inner(x)

    block = suv.transformer_blocks[1][2]
    block.ff = Louder(block.ff)
    expected = suv(*denoiser_inputs()).asnumpy()
    assert np.abs(expected - before).max() > 1e-3
    assert_close(ms.jit(suv)(*denoiser_inputs()), expected, 1e-5)
