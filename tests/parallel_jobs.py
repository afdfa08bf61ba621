"""What the processes of tests/test_parallel_models.py compute: a model shared between ranks, beside the whole model."""

from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import mindspore as ms
import numpy as np
import tiny_pipeline
from cell_checks import Loss
from mindspore import Tensor
from PIL import Image

from mindsora import ImageToVideoPipeline, TextToVideoPipeline
from mindsora.ckpt_convert import convert, entry, load, save
from mindsora.ckpt_convert.entry import File
from mindsora.models import SUV, WFVAE, OpenSoraInpaint, OpenSoraT2V, T5Encoder, registry
from mindsora.parallel.collectives import ALONE, AllReduce, counted
from mindsora.parallel.layout import Mesh
from mindsora.parallel.shards import Shards

SUV_CONFIG = {
    "num_layers": [2, 2, 2, 2, 2],
    "num_heads": 4,
    "head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "timestep_embed_dim": 24,
    "caption_channels": 20,
    "pooled_projection_dim": 28,
}
# name: (sub-sequences, latent frames, rows and columns, text tokens, real text tokens, real latent frames)
SUV_CASES = {
    "padded at every level": ([1, 2, 4, 2, 1], (3, 10, 14), 5, (3, 5), None),
    "three sub-sequences": ([3, 2, 1, 2, 3], (1, 6, 10), 4, (1, 4), None),
    "masked video": ([1, 2, 4, 2, 1], (3, 6, 6), 6, (6, 2), (3, 2)),
    "no padding, all text": ([1, 4, 2, 4, 1], (2, 8, 8), 6, None, None),
}


PYNATIVE, BOTH = ("pynative",), ("pynative", "graph")


def _itself(function):
    return function


def suv_inputs(case: str) -> list[Tensor | None]:
    _, size, length, lengths, frames = SUV_CASES[case]
    random = np.random.RandomState(0)
    arrays = random.randn(2, 4, *size), np.array([37.5, 900]), random.randn(2, 1, length, 20), random.randn(2, 1, 28)
    inputs = [Tensor(array.astype(np.float32)) for array in arrays]
    video = (
        None if frames is None else Tensor(_first(frames, size[0])[:, :, None, None] * np.ones((1, 1, *size[1:]), int))
    )
    return [*inputs, video, None if lengths is None else Tensor(_first(lengths, length)[:, None])]


def _first(counts: tuple[int, ...], length: int) -> np.ndarray:
    """(B, length) int32 with so many ones in front."""
    return (np.arange(length)[None] < np.array(counts)[:, None]).astype(np.int32)


def fill(cell, whole, tp) -> None:
    """Give a Cell a rank's part of the values that the whole model gets."""
    spec = registry.spec_of(cell)
    shapes = {p.name: p.shape for p in whole.get_parameters()}
    for parameter in cell.get_parameters():
        value = np.random.RandomState(crc32(parameter.name.encode())).randn(*shapes[parameter.name]) * 0.2
        value = part(value.astype(np.float32), axis_of(spec, parameter.name), tp)
        assert value.shape == tuple(parameter.shape), parameter.name
        parameter.set_data(Tensor(np.ascontiguousarray(value)))


def axis_of(spec, name: str) -> int | None:
    return spec.sharding.axis(spec.names.upstream_name(name)) if spec.is_sharded else None


def part(array: np.ndarray, axis: int | None, tp) -> np.ndarray:
    return array if axis is None or tp is None else np.split(array, tp.size, axis)[tp.rank]


def suv(mesh: Mesh, cases: tuple[str, ...] = tuple(SUV_CASES)) -> dict[str, np.ndarray]:
    """Cases in PyNative, and the first in graph mode too."""
    found = {}
    for case in cases:
        config, modes = SUV_CONFIG | {"sparse_n": SUV_CASES[case][0]}, PYNATIVE if found else BOTH
        found |= compared(mesh, SUV, config, suv_inputs(case), case, modes)
    return found


DENOISER_V1_3 = {
    "num_layers": 6,  # 2 to 5 attend sparsely
    "num_attention_heads": 4,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "caption_channels": 20,
    "cross_attention_dim": 48,
    "sparse_n": 4,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "sparse1d": True,
}
T5_CONFIG = {
    "vocab_size": 60,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "model_type": "mt5",
}


def v1_3_inputs(channels: int, masked: bool) -> list[Tensor | None]:
    random = np.random.RandomState(0)
    arrays = random.randn(2, channels, 3, 10, 14), np.array([37.5, 900]), random.randn(2, 1, 5, 20)
    inputs = [Tensor(array.astype(np.float32)) for array in arrays]
    video = _first((3, 2), 3)[:, :, None, None] * np.ones((1, 1, 10, 14), np.int32) if masked else None
    return [*inputs, None, None if video is None else Tensor(video), Tensor(_first((3, 5), 5)[:, None])]


def v1_3(mesh: Mesh, modes=BOTH) -> dict[str, np.ndarray]:
    """Text to video and inpainting, of 105 tokens."""
    t2v = DENOISER_V1_3 | {"_class_name": "OpenSoraT2V_v1_3"}
    inpaint = DENOISER_V1_3 | {"_class_name": "OpenSoraInpaint_v1_3", "vae_scale_factor_t": 4}
    return compared(mesh, OpenSoraT2V, t2v, v1_3_inputs(4, masked=False), "text to video", modes) | compared(
        mesh, OpenSoraInpaint, inpaint, v1_3_inputs(12, masked=True), "inpainting", PYNATIVE
    )


def t5(mesh: Mesh, modes=BOTH) -> dict[str, np.ndarray]:
    """mT5, with one bias table, and UMT5, with one in each block."""
    ids = Tensor(np.random.RandomState(0).randint(0, 60, (2, 7)).astype(np.int32))
    inputs = [ids, Tensor(_first((3, 7), 7))]
    umt5 = T5_CONFIG | {"model_type": "umt5"}
    found = compared(mesh, T5Encoder, T5_CONFIG, inputs, "mT5", modes) | compared(
        mesh, T5Encoder, umt5, inputs, "UMT5", PYNATIVE
    )
    return found | sliced(mesh, T5Encoder, T5_CONFIG) | sliced(mesh, SUV, SUV_CONFIG | {"sparse_n": [1, 2, 4, 2, 1]})


def sliced(mesh: Mesh, model, config: dict) -> dict[str, np.ndarray]:
    """Bytes that a rank reads of a file beside the header and its own slices; and how many values are wrong."""
    whole, shared, name = (
        model.from_upstream(config),
        model.from_upstream(config, Shards(ALONE, mesh.tp)),
        model.__name__,
    )
    fill(whole, whole, None)
    read, counts = File._filled, []

    def counted_read(file, buffer, offset):
        counts.append(memoryview(buffer).nbytes)
        return read(file, buffer, offset)

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(whole, path)
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        File._filled, entry.PAGE = counted_read, 1  # as if every row filled a page
        load(shared, path, tp=mesh.tp)
        File._filled = read
        own = sum(4 * p.size for p in shared.get_parameters())
        found = {f"{name}: extra bytes": np.array(sum(counts) - header - own)}
        found[f"{name} from one file: gradients"] = wrong_values(mesh, whole, shared)
        if registry.spec_of(whole) in registry.mindspeed():
            convert(path, Path(folder) / "ranks", to="mindspeed-mm", tp=2)
            fill(shared, whole, mesh.tp._replace(rank=0))
            load(shared, Path(folder) / "ranks", tp=mesh.tp)
            found[f"{name} from a file for each rank: gradients"] = wrong_values(mesh, whole, shared)
    return found


def wrong_values(mesh: Mesh, whole, shared) -> np.ndarray:
    """How many values of a rank's parameters are not its part of the whole model's."""
    spec, values = registry.spec_of(whole), {p.name: p.asnumpy() for p in whole.get_parameters()}
    own = {p.name: part(values[p.name], axis_of(spec, p.name), mesh.tp) for p in shared.get_parameters()}
    return np.array(sum((p.asnumpy() != own[p.name]).sum() for p in shared.get_parameters()))


# The same for all keys of a softmax: the gradient is rounding alone.
CANCELLED = ("attn2.to_k.bias",)


def compared(mesh: Mesh, model, config: dict, inputs: list, case: str, modes=BOTH) -> dict[str, np.ndarray]:
    """The largest errors in each mode: of the output in its standard deviations, of gradients in their largest entry."""
    shards = Shards(mesh.cp, mesh.tp)
    whole, shared = model.from_upstream(config), model.from_upstream(config, shards)
    fill(whole, whole, None)
    fill(shared, whole, mesh.tp)
    expected = whole(*inputs).asnumpy()
    target = Tensor(np.random.RandomState(1).randn(*expected.shape).astype(np.float32))
    slopes = ms.grad(Loss(whole), None, whole.trainable_params())(target, *inputs)
    spec, total = registry.spec_of(whole), AllReduce(mesh.cp)
    names = [p.name for p in shared.trainable_params()]
    wanted = [part(slope.asnumpy(), axis_of(spec, name), mesh.tp) for name, slope in zip(names, slopes)]
    largest = max(np.abs(slope).max() for slope in wanted)
    found = {}
    for mode in modes:
        run = ms.jit if mode == "graph" else _itself
        with counted() as evaluation:
            output = run(shared)(*inputs).asnumpy()
        with counted() as step:
            gradient = run(ms.grad(Loss(shared), None, shared.trainable_params()))(target, *inputs)
        if mode == "pynative":  # in a graph collectives run without Python
            found |= volumes(mesh, shared, inputs, {"evaluation": evaluation, "step": step}, case)
        found[f"{case}, {mode}: output"] = np.abs(output - expected).max() / expected.std()
        errors = [
            np.abs(total(own).asnumpy() - slope).max() / max(np.abs(slope).max(), 1e-6 * largest)
            for name, own, slope in zip(names, gradient, wanted)
            if not name.endswith(CANCELLED)
        ]
        found[f"{case}, {mode}: gradients"] = np.array(max(errors))
    return found


def vae(mesh: Mesh, modes=BOTH) -> dict[str, np.ndarray]:
    """Frames of clips that ranks decode together, less those of one process; both variants."""
    found = {}
    for stride, config in ((8, tiny_pipeline.CONFIGS["vae"][1]), (4, tiny_pipeline.WFVAE_4)):
        alone, shared = WFVAE.from_upstream(config), WFVAE.from_upstream(config)
        fill(alone, alone, None)
        fill(shared, alone, None)
        shared.share_chunks(mesh.clip)
        for latents in (3, 9, 12):
            z = Tensor(np.random.RandomState(0).randn(1, 4, latents, 4, 2).astype(np.float32))
            whole = alone.decode(z).asnumpy()
            found[f"{stride}, {latents} latents: frames"] = (
                np.abs(shared.decode(z).asnumpy() - whole).max() / whole.std()
            )
        if "graph" not in modes:
            continue
        step = ms.jit(shared.decode_chunk)
        pieces = shared.decode_chunks(z, step=lambda *part, run=step: run(*map(ms.mutable, part)))
        frames = np.concatenate([piece.asnumpy() for piece in pieces], 2)
        found[f"{stride}, graph: frames"] = np.abs(frames - whole).max() / whole.std()
    return found


def clips(mesh: Mesh) -> dict[str, np.ndarray]:
    """Largest difference to the frames of one process, in 1 / 255: of nano, and of a small inpainting model."""
    options = {"num_inference_steps": 4, "seed": 3, "guidance_scale": 4.0, "output_type": "np"}
    alone, shared = (TextToVideoPipeline.from_pretrained("nano", jit="off", parallel=one) for one in (None, mesh))
    expected, frames = (pipe("a red circle moving right", num_frames=9, **options).frames for pipe in (alone, shared))
    assert 255 * expected.std() > 10  # a clip that shows something
    found = {"nano: clip": 255 * np.abs(frames - expected).max()}
    with TemporaryDirectory() as folder:
        model = tiny_pipeline.write_v1_3(Path(folder) / "i2v", "i2v")
        alone, shared = (ImageToVideoPipeline.from_pretrained(model, jit="off", parallel=one) for one in (None, mesh))
        picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (32, 48, 3), np.uint8))
        expected, frames = (pipe(picture, "a cat", num_frames=17, **options).frames for pipe in (alone, shared))
    return found | {"inpainting: clip": 255 * np.abs(frames - expected).max()}


def volumes(mesh: Mesh, shared, inputs: list, counts: dict, case: str) -> dict[str, np.ndarray]:
    """Bytes that this rank sends of each kind, as counted and as planned, (kinds, 2); of a denoiser.

    Args:
        counts: of an "evaluation", and of a "step" with gradients.
    """
    cost = registry.spec_of(shared).cost
    if not hasattr(cost, "exchanges"):
        return {}
    _, _, frames, height, width = inputs[0].shape
    sizes = inputs[0].shape[0], frames * (height // 2) * (width // 2), inputs[2].shape[2], 4
    found = {}
    for name, sent in counts.items():
        planned = cost.exchanges(shared.config, mesh.cp.size, mesh.tp.size, *sizes, name == "step")
        rows = [(sent[kind], planned[kind]) for kind in sorted(sent.keys() | planned.keys())]
        found[f"{case}, {name}: bytes"] = np.array(rows)
    return found


def models(mesh: Mesh) -> dict[str, np.ndarray]:
    """Every model that the layout shares, and clips; in graph mode SUV alone, because graphs take minutes to compile."""
    found = suv(mesh, ("padded at every level",)) | v1_3(mesh, PYNATIVE)
    found |= t5(mesh, PYNATIVE) if mesh.tp.size > 1 else vae(mesh, PYNATIVE)
    return found | clips(mesh)
