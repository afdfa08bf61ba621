"""What is compiled on the simulated Ascend. A case runs inside `ascend_sim.worker` and may return figures for its test.

Cells are small, but with heads as wide as the released ones (128 and 96 channels), so that CANN's attention takes them.
"""

import dataclasses
import json
import os
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

import mindsora.released
from mindsora.audit.bringup import GIB, SixBlocks, small_cells
from mindsora.kernels.choice import choose
from mindsora.models import (
    SUV,
    WFVAE,
)
from mindsora.nn.precision import set_precision

CASES = {}  # name -> function of nothing


def case(function, name: str | None = None):
    CASES[name or function.__name__] = function
    return function


def in_halves(function):
    """The case in bfloat16, and again in float16."""
    for dtype, suffix in ((ms.bfloat16, "bf16"), (ms.float16, "fp16")):
        case(partial(function, dtype), f"{function.__name__}_{suffix}")
    return function


def noise(*shape) -> Tensor:
    return Tensor(np.random.RandomState(0).randn(*shape).astype(np.float32))


def integers(value) -> Tensor:
    return Tensor(np.array(value, np.int32))


def small(name: str, dtype) -> nn.Cell:
    """A Cell of those that `mindsora doctor --bringup` compares with numbers."""
    kind, config, _, _ = small_cells()[name]
    return set_precision(kind(config), dtype).set_train(False)


def compiled(cell, *inputs):
    """One call of a Cell as one graph. O1 does not compile here: fusion describes the chip to a compiler in CANN."""
    return ms.jit(cell, jit_level="O0")(*inputs)


def released(folder: str) -> dict:
    """The configuration shipped for a released folder, such as "v1_5/vae"."""
    return json.loads((Path(mindsora.released.__file__).parent / folder / "config.json").read_text())


# Denoisers

TEXT_MASK = [[[1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1]]]
SHORTER_MASK = [[[1, 0, 0, 0, 0]], [[1, 1, 1, 1, 0]]]


def suv_inputs(text_mask=None, video_mask=None):
    return noise(2, 4, 2, 6, 6), noise(2), noise(2, 1, 5, 32), noise(2, 1, 32), video_mask, text_mask


@in_halves
def suv(dtype):
    """All text tokens real and nothing masked."""
    compiled(small("suv", dtype), *suv_inputs())


@in_halves
def suv_lengths(dtype):
    """Padded text as pipelines give it, with two prompts: attention takes the variable-length form."""
    cell = small("suv", dtype)
    step = ms.jit(cell, jit_level="O0")
    for mask in (TEXT_MASK, SHORTER_MASK):
        step(*suv_inputs(integers(mask)), *cell.segments((2, 6, 6), np.sum(mask, (1, 2)).tolist(), 5))


@in_halves
def suv_mask(dtype):
    """Masked video as well, and nothing known to the host."""
    mask = integers(np.ones((2, 2, 6, 6)))
    compiled(small("suv", dtype), *suv_inputs(integers(TEXT_MASK), mask))


@case
def suv_pynative():
    cell = small("suv", ms.bfloat16)
    cell(*suv_inputs(integers(TEXT_MASK)), *cell.segments((2, 6, 6), np.sum(TEXT_MASK, (1, 2)).tolist(), 5))


def take_our_operators():
    """Attention too, for which CANN's is preferred."""
    os.environ["MINDSORA_KERNELS"] = "skiparse_attention=ascend_custom"
    for operator in ("skiparse_permute", "qk_norm_rope", "ada_norm_modulate", "skiparse_attention"):
        assert choose(operator) == "ascend_custom", operator


@case
def suv_operators():
    """The operators of our package in SUV, in one graph."""
    take_our_operators()
    compiled(small("suv", ms.bfloat16), *suv_inputs(integers(TEXT_MASK)))


@case
def suv_operators_train():
    """And their gradients."""
    take_our_operators()
    loss = set_precision(Loss(), ms.bfloat16).set_train()
    compiled(ms.grad(loss, None, loss.trainable_params()), *suv_inputs(integers(TEXT_MASK)))


def opensora(name, channels, dtype, masked=False):
    inputs = noise(2, channels, 2, 8, 8), integers([19, 999]), noise(2, 1, 5, 32), None
    mask = integers(np.ones((2, 2, 8, 8))) if masked else None
    compiled(small(name, dtype), *inputs, mask, integers(TEXT_MASK))


@in_halves
def opensora_t2v(dtype):
    opensora("opensora_t2v", 4, dtype)


@in_halves
def opensora_t2v_mask(dtype):
    opensora("opensora_t2v", 4, dtype, masked=True)


@in_halves
def opensora_inpaint(dtype):
    opensora("opensora_inpaint", 12, dtype)  # latents, given ones, mask


# Text encoders


@in_halves
def t5(dtype):
    ids = integers(np.arange(14).reshape(2, 7))
    compiled(small("t5", dtype), ids, integers([[1] * 7, [1] * 3 + [0] * 4]))


@in_halves
def clip(dtype):
    compiled(small("clip", dtype), integers(np.arange(14).reshape(2, 7)))


# Autoencoders, float32


class Method(nn.Cell):
    """`cell.name(x, *rest)`, for `ms.jit`."""

    def __init__(self, cell: nn.Cell, name: str, *rest):
        super().__init__(auto_prefix=False)
        self.cell, self.method, self.rest = cell, name, rest

    def construct(self, x):
        return getattr(self.cell, self.method)(x, *self.rest)


@case
def wfvae_encode():
    compiled(Method(small("wfvae, encoder", ms.float32), "encode_moments", False, None), noise(1, 3, 17, 32, 32))


@case
def wfvae_decode():
    compiled(Method(small("wfvae, decoder", ms.float32), "decode_chunk", None), noise(1, 4, 3, 4, 4))


@case
def causalvae_encode():
    compiled(Method(small("causalvae, encoder", ms.float32), "encode_moments", False, None), noise(1, 3, 9, 32, 32))


@case
def causalvae_decode():
    compiled(Method(small("causalvae, decoder", ms.float32), "decode", False, 2, None), noise(1, 4, 3, 4, 4))


# Training


class Loss(nn.Cell):
    def __init__(self):
        super().__init__()
        self.denoiser = SUV(small_cells()["suv"][1])

    def construct(self, *batch):
        velocity = self.denoiser(*batch).astype(ms.float32)
        return (velocity**2).mean(), ops.stack((velocity.sum(),))


@case
def train_step():
    """Forward, backward, clipping, AdamW and the moving average in one graph: bfloat16, with float32 masters."""
    from mindsora.train.optimizer import TrainStep
    from mindsora.train.recipe import OptimizerConfig

    loss = set_precision(Loss(), ms.bfloat16).set_train()
    fields = {f.name: f.default for f in dataclasses.fields(OptimizerConfig) if f.default is not dataclasses.MISSING}
    step = TrainStep(loss, OptimizerConfig(**fields | {"lr": 1e-3, "clip_decay": 0.99}))
    compiled(step, noise(1)[0], *suv_inputs(integers(TEXT_MASK)))


# Pipelines, with models in the box


def pipeline(name: str, **options):
    import mindsora

    takes = mindsora.ImageToVideoPipeline if name == "nano_i2v" else mindsora.TextToVideoPipeline
    pipe = takes.from_pretrained(name, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def shape_of(pipe, **options) -> list[int]:
    frames = pipe(
        prompt="a red circle moving right", num_frames=9, height=32, width=32, num_inference_steps=2, **options
    ).frames
    return list(frames.shape)


@case
def text_to_video_offload():
    return {"shape": shape_of(pipeline("nano", offload=True))}


@case
def image_to_video():
    first = np.zeros((32, 32, 3), np.uint8)
    return {"shape": shape_of(pipeline("nano_i2v"), images=[(first, 0)])}


@case
def hf32():
    """What MindSpore would tell CANN of float32 convolutions and matrix products, once a pipeline is loaded."""
    from mindspore._c_expression import AscendOpPrecisionConf

    pipeline("nano")
    told = AscendOpPrecisionConf.get_instance()
    return {"conv": told.conv_allow_hf32(), "matmul": told.matmul_allow_hf32()}


# Memory, with released configurations

V1_5_CLIP, V1_3_CLIP = (121, 576, 1024), (93, 640, 640)


def peak() -> float:
    """GiB that MindSpore has allocated at most. CANN's workspaces, which the stand-ins do not ask for, come on top."""
    ms.runtime.synchronize()
    return ms.runtime.max_memory_allocated() / GIB


def planned(model: str, size: tuple[int, int, int], component: str) -> dict:
    from mindsora.audit.plan import plan

    return plan(model, size, "910b1")["memory"]["components"][component]


@case
def memory_six_blocks():
    """One guided evaluation of a released SUV that has six of its blocks (2, 2, 2)."""
    blocks = SixBlocks()
    kept = blocks()
    found = {"peak": peak(), "planned": blocks.planned()}
    del kept
    return found


@case
def memory_decoder():
    """The released autoencoder's first three chunks of such a clip; every later chunk is like the third."""
    from mindspore.nn.utils import no_init_parameters

    from mindsora.audit.measure import fill
    from mindsora.pipelines.video_pipeline import _Decode

    with no_init_parameters():
        vae = WFVAE.from_upstream(released("v1_5/vae"))
    fill(set_precision(vae, ms.float32).set_train(False))
    step = ms.jit(_Decode(vae), jit_level="O0")
    pieces = vae.decode_chunks(
        ops.zeros((1, 32, 16, 72, 128), ms.float32), step=lambda z, *state: step(z, *map(ms.mutable, state)), tile=None
    )
    kept = [next(pieces) for _ in range(3)]
    del kept
    told = planned("v1_5", V1_5_CLIP, "vae")
    return {"peak": peak(), "planned": (told["weights"] + told["activations"]) / GIB}


def whole_generation(model: str, size: tuple[int, int, int]) -> dict:
    """Text, denoising and decoding, everything in memory, as a pipeline does it."""
    from mindsora.audit.measure import pipeline_without_weights
    from mindsora.audit.plan import plan

    pipe = pipeline_without_weights(model, "O0")
    pipe.set_progress_bar_config(disable=True)
    frames, height, width = size
    pipe(prompt="a clip", num_frames=frames, height=height, width=width, num_inference_steps=1)
    return {"peak": peak(), "planned": plan(model, size, "910b1")["memory"]["peak"] / GIB}


@case
def memory_v1_5():
    return whole_generation("v1_5", V1_5_CLIP)


@case
def memory_v1_3():
    return whole_generation("v1_3", V1_3_CLIP)
