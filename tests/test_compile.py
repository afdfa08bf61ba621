"""A repeated block of a denoiser or text encoder compiles once for each role and is right for every instance."""

from collections import Counter

import mindspore as ms
import numpy as np
import pytest
import tiny_pipeline
from golden_file import assert_close
from mindspore import Tensor, nn
from mindspore.graph._parse import parser

from mindsora.models import SUV, WFVAE, CausalVAE, CLIPTextModel, OpenSoraT2V, T5Encoder
from mindsora.nn.compile_once import compile_once, kind
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
    """How often MindSpore's front end has read each function, which it does once per graph."""
    count, init = Counter(), parser.Parser.__init__

    def counted(self, function, *arguments, **options):
        count[getattr(function, "__qualname__", str(function))] += 1
        init(self, function, *arguments, **options)

    monkeypatch.setattr(parser.Parser, "__init__", counted)
    return count


def random(*shape: int, seed: int = 0, dtype=ms.float32) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def filled(cell: nn.Cell, seed: int = 0) -> nn.Cell:
    """Random weights replace ones and zeros, so that each instance shows its own weights."""
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


@pytest.mark.full
@pytest.mark.parametrize("model, config, roles", [(SUV, SUV_CONFIG, 5), (OpenSoraT2V, V1_3_CONFIG, 4)])
def test_each_role_is_compiled_once(parsed, model, config, roles):
    """Two values of n, each single and group; and SUV's last block, which leaves the text unchanged."""
    denoiser = filled(model.from_upstream(config))
    jitted = ms.jit(denoiser)
    assert_close(jitted(*denoiser_inputs()), denoiser(*denoiser_inputs()).asnumpy(), 1e-5)  # sums in another order
    assert parsed["Block.construct"] == roles
    jitted(*denoiser_inputs(3))
    assert parsed["Block.construct"] <= 2 * roles  # another size adds one graph, not one for each block


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


def denoiser(model, config):
    return filled(model.from_upstream(config)), denoiser_inputs()


def text_encoder(name):
    model, config = tiny_pipeline.CONFIGS[name]
    ids = Tensor(np.random.default_rng(0).integers(3, 1000, (2, 7)).astype(np.int32))
    return filled(model.from_upstream(config)), (ids,)


@pytest.mark.parametrize(
    "make, arguments",
    [
        (denoiser, (SUV, SUV_CONFIG)),
        (denoiser, (OpenSoraT2V, V1_3_CONFIG)),
        (text_encoder, ("text_encoder",)),
        (text_encoder, ("text_encoder_2",)),
    ],
    ids=["suv", "opensora", "t5", "clip"],
)
def test_blocks_that_share_a_graph_have_inputs_of_one_shape(make, arguments):
    """CausalVAE's once did not, and MindSpore gave one block the shape of another."""
    cell, inputs = make(*arguments)
    calls = {}

    def record(block, arguments):
        calls.setdefault(block.cell_init_args, []).append((block, signature(arguments)))

    blocks = [part for _, part in cell.cells_and_names() if hasattr(part, "cell_init_args")]
    for block in blocks:
        block.register_forward_pre_hook(record)
    cell(*inputs)
    assert sum(map(len, calls.values())) == len(blocks) > len(calls)
    for shared in calls.values():
        assert len({block for block, _ in shared}) == len(shared)  # each is called once
        assert len({inputs for _, inputs in shared}) == 1
        assert len({signature(tuple(block.get_parameters())) for block, _ in shared}) == 1


def signature(value):
    """Shapes and dtypes of all Tensors in a value."""
    if isinstance(value, Tensor):
        return value.shape, str(value.dtype)
    return tuple(map(signature, value)) if isinstance(value, tuple | list) else repr(value)


@pytest.mark.parametrize("model, config", [(WFVAE, WFVAE_CONFIG), (CausalVAE, CAUSALVAE_CONFIG)])
def test_autoencoders_share_nothing(model, config):
    """Their equal blocks receive clips of several sizes."""
    cells = model.from_upstream(config).cells_and_names()
    assert not [name for name, cell in cells if hasattr(cell, "cell_init_args")]


class Affine(nn.Cell):
    def __init__(self, width: int, plus: int = 0, times: int = 1, table=None):
        super().__init__()
        self.weight = ms.Parameter(ms.ops.ones(width))
        self.plus, self.times = plus, times
        self.table = Tensor(np.zeros(3, np.float32) if table is None else table)

    def construct(self, x):
        rows = x.reshape(-1, x.shape[-1])  # a constant of the graph that follows from the input's shape
        return (self.weight * rows * self.times + self.plus + self.table.sum()).reshape(x.shape)


class Chain(nn.Cell):
    """Blocks run one after the other; those after the first list receive every second row."""

    def __init__(self, *lists):
        super().__init__()
        self.lists = nn.CellList([nn.CellList(cells) for cells in lists])

    def construct(self, x):
        for cells in self.lists:
            for cell in cells:
                x = cell(x)
            x = x[:, ::2]
        return x


def test_kind_tells_whatever_a_graph_follows_from():
    """MindSpore's own name holds only the arguments' values, so `plus` 5 and `times` 5 look the same to it."""
    table = np.float32([1, 2, 3])
    different = [
        Affine(4),
        Affine(5),
        Affine(4, plus=5),
        Affine(4, times=5),
        Affine(4, table=table),
        nn.CellList([Affine(4)]),
    ]
    assert len({kind(cell) for cell in different}) == len(different)
    assert kind(Affine(4, 5, table=table)) == kind(Affine(4, plus=5, table=table.copy()))
    retyped = Affine(4)
    retyped.weight.set_dtype(ms.float16)
    changed = Affine(4)
    changed.plus = 1
    assert len({kind(Affine(4)), kind(retyped), kind(changed)}) == 3


def test_lists_share_nothing(parsed):
    """Equal blocks in two lists, at two sizes in one graph, compile to two graphs, and each block is right."""
    chain = filled(Chain(*(compile_once(Affine(4, plus=1) for _ in range(3)) for _ in range(2))))
    x = random(2, 8, 4)
    assert_close(ms.jit(chain)(x), chain(x).asnumpy(), 1e-6)
    assert parsed["Affine.construct"] == 2


def test_different_blocks_of_one_list_share_nothing(parsed):
    chain = filled(Chain(compile_once([Affine(4, plus=5), Affine(4, times=5), Affine(4, plus=5)])))
    x = random(2, 8, 4)
    assert_close(ms.jit(chain)(x), chain(x).asnumpy(), 1e-6)
    assert parsed["Affine.construct"] == 2


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
