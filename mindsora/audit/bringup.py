"""`mindsora doctor --bringup`: the first hour on an Atlas. Each step needs those before it; the first failure ends it.

    environment    what `mindsora doctor` looks at
    products       a matrix product and a convolution in each dtype, against NumPy
    operators      each of our AscendC operators that is installed, against its definition
    attention      CANN's flash attention, against the definition
    cells          every Cell, small, against numbers computed on CPU (bringup_goldens.json)
    blocks         six blocks of the released v1.5 denoiser at 121 x 576 x 1024: memory against `mindsora plan`, seconds
    video          a clip of nano

Under MS_SIMULATION_LEVEL, MindSpore compiles and plans without a card: numbers are then reported as "not computed".
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, mint, nn, ops

import mindsora
from mindsora import models
from mindsora.audit import memory as memory_model
from mindsora.audit.doctor import examine
from mindsora.audit.measure import filled
from mindsora.audit.plan import plan
from mindsora.errors import InputError
from mindsora.files import whole_file
from mindsora.kernels import ada_norm_modulate, qk_norm_rope, skiparse_attention, skiparse_permute
from mindsora.kernels.choice import VARIABLE, obstacle
from mindsora.machine import cann_version, device_part, versions
from mindsora.nn.precision import set_precision
from mindsora.nn.rope import rope_tensors, split_v1_5
from mindsora.pipelines.video_pipeline import _GuidedVelocity
from mindsora.zoo import configuration

FORMAT = "mindsora bring-up 1"
GOLDENS = Path(__file__).with_name("bringup_goldens.json")
GIB = 2**30
CLIP = (121, 576, 1024)
LATENTS = (16, 72, 128)  # of such a clip
BLOCKS = (2, 2, 2)
TEXT = 512
PLAN_MARGIN = 1.1  # CANN's workspaces are not in the plan
# Largest difference as a share of the largest expected number: sums in another order in float32; in half precision, whose
# unit is 2^-11 or 2^-8, roundings of every layer.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


class Failed(Exception):
    """A step found an error."""


def simulated() -> bool:
    """Whether MindSpore simulates the device and launches no kernels."""
    return bool(os.environ.get("MS_SIMULATION_LEVEL"))


def bring_up(receipt: str | Path, say: Callable[[str], None] = print) -> bool:
    """Run the steps; write the receipt after each, so that it is there whatever happens.

    Args:
        receipt: path of a JSON file.
        say: called with each line of readable output.

    Returns:
        Whether every step passes.

    Raises:
        InputError: the device is not an Ascend, or the receipt cannot be written.
    """
    if ms.get_current_device().device_target != "Ascend":
        raise InputError("--bringup checks an Ascend card, and MindSpore finds none here; `mindsora doctor` says why")
    told = {
        "format": FORMAT,
        "simulated": simulated(),
        "versions": {"mindsora": mindsora.__version__, "cann": cann_version()} | versions(("mindspore", "numpy")),
        "device": device_part(),
        "steps": {},
    }
    for name, step in STEPS.items():
        start, found, failure = time.perf_counter(), {}, ""
        try:
            for what, result in step():
                found[what] = result
        except Exception as error:  # whatever MindSpore or CANN raises is a finding too
            failure = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        seconds = round(time.perf_counter() - start, 1)
        told["steps"][name] = {"found": found, "failure": failure, "seconds": seconds}
        told["measured"] = {} if simulated() else measured(told["steps"])
        with whole_file(Path(receipt)) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        say(f"{'FAILED' if failure else 'ok    '} {name} ({seconds} s)")
        for what, result in found.items():
            say(f"       {what}: {result}")
        if failure:
            say(f"       {failure}\nsend us {receipt} and what `GLOG_v=1 mindsora doctor --bringup` prints")
            return False
    say(f"all steps are good; the numbers under `measured` in {receipt} are for the columns 'measured on Ascend'")
    return True


def measured(steps: dict) -> dict[str, object]:
    """The rows of the tables that say "not measured on Ascend", as far as the steps have come."""
    return {
        f"{step}: {what}": result
        for step in ("blocks", "cells", "attention", "operators")
        for what, result in steps.get(step, {}).get("found", {}).items()
    }


def environment() -> Iterator[tuple[str, object]]:
    findings = examine()
    yield from ((finding.name, finding.found) for finding in findings)
    wrong = [
        f"{finding.name}: {finding.found}; mend: {finding.mend}" for finding in findings if finding.state == "wrong"
    ]
    if wrong and not simulated():  # a machine without a card lacks much
        raise Failed("; ".join(wrong))


def products() -> Iterator[tuple[str, object]]:
    rng = np.random.default_rng(0)
    shapes = (256, 384), (384, 128), (1, 8, 4, 10, 12), (16, 8, 3, 3, 3)
    for name in TOLERANCE:
        given = [Tensor(rng.standard_normal(shape).astype(np.float32)).astype(getattr(ms, name)) for shape in shapes]
        a, b, clip, weight = map(_array, given)  # rounded: the rounding of inputs does not count
        yield f"matrix product, {name}", compare(ops.matmul(given[0], given[1]), a @ b, name)
        y = mint.nn.functional.conv3d(given[2], given[3], None, 1, (0, 1, 1))
        yield f"convolution, {name}", compare(y, _convolved(clip, weight), name)


def _convolved(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(B, Ci, T, H, W) with (Co, Ci, 3, 3, 3); one zero around H and W."""
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3, 4))
    return np.einsum("bithwxyz,oixyz->bothw", windows, weight)


def operators() -> Iterator[tuple[str, object]]:
    for name, (operator, arguments, options) in _calls(ms.bfloat16).items():
        if reason := obstacle(name, "ascend_custom"):
            yield name, reason
        else:
            yield (
                name,
                _against_definition(name, "ascend_custom", lambda operator=operator: operator, arguments, options),
            )


def attention() -> Iterator[tuple[str, object]]:
    for name in ("float16", "bfloat16"):
        x, text = _random((2, 38, 2, 128), getattr(ms, name)), _random((2, 7, 2, 128), getattr(ms, name))
        arguments = x, x, x, text, text, text, Tensor([3, 7], ms.int32)
        found = _against_definition("skiparse_attention", "ascend_builtin", lambda: ms.jit(_Attention()), arguments, {})
        yield f"in a graph, padding and text of two lengths, {name}", found


class _Attention(nn.Cell):
    def construct(self, q, k, v, text_q, text_k, text_v, lengths):
        x, _ = skiparse_attention.skiparse_attention(
            q, k, v, text_q, text_k, text_v, sparse_n=2, group=True, text_lengths=lengths
        )
        return x


def _calls(dtype) -> dict[str, tuple]:
    """Operator -> function, arguments, options."""
    x, weight = _random((1, 36, 2, 128), dtype), _random((128,), dtype)
    rows = [_random((1, 1, 256), ms.float32) for _ in range(2)]
    split, skip = split_v1_5(128), {"sparse_n": 2, "group": True}
    rope = rope_tensors((1, 6, 6), split, (1.0, 1.0, 1.0))
    norm = {"norm": "rms", "split": split, "eps": 1e-6}
    return {
        "skiparse_permute": (skiparse_permute.skiparse_permute, (x,), skip),
        "qk_norm_rope": (qk_norm_rope.qk_norm_rope, (x, weight, None, rope), norm),
        "ada_norm_modulate": (ada_norm_modulate.ada_norm_modulate, (x.reshape(1, 36, 256), *rows), {"eps": 1e-6}),
        "skiparse_attention": (skiparse_attention.skiparse_attention, (x, x, x), skip),
    }


def _against_definition(name: str, kind: str, operator: Callable[[], Callable], arguments: tuple, options: dict):
    """Compare. operator: builds the callable, once per implementation, because a graph keeps its implementation."""
    results = []
    for implementation in (kind, "reference"):
        with _chosen(f"{name}={implementation}"):
            result = operator()(*arguments, **options)
        results.append(result[0] if isinstance(result, tuple) else result)
    return compare(results[0], _array(results[1]), str(arguments[0].dtype).lower())


@contextlib.contextmanager
def _chosen(wish: str) -> Iterator[None]:
    """Set MINDSORA_KERNELS inside the context."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = wish
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def cells() -> Iterator[tuple[str, object]]:
    goldens = json.loads(GOLDENS.read_text())
    for name in small_cells():
        for dtype in ("float32",) if "vae" in name else ("float32", "bfloat16"):
            expected = np.array(goldens[name]["values"], np.float32).reshape(goldens[name]["shape"])
            yield f"{name}, {dtype}", compare(small_output(name, getattr(ms, dtype)), expected, dtype)


def small_cells() -> dict[str, tuple]:
    """Name -> Cell class, configuration, method, inputs: the head widths are those of the released models."""
    # Tokens that skiparse attention need not pad, and for SUV all text real: the lengths of the others' segments are
    # read back from the card, which simulation does not compute. The step `attention` has them.
    text_mask = np.array([[[1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1]]], np.int32)
    ids, video = np.arange(14, dtype=np.int32).reshape(2, 7), (2, 4, 2, 8, 8)
    v1_3 = {
        "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 96, "in_channels": 4, "out_channels": 4,
        "caption_channels": 32, "sparse_n": 2,
    }  # fmt: skip
    suv = models.SUVConfig(
        num_layers=(2, 2, 2), sparse_n=(1, 2, 1), num_heads=2, head_dim=128, in_channels=4, out_channels=4,
        timestep_embed_dim=32, caption_channels=32, pooled_projection_dim=32,
    )  # fmt: skip
    clip = models.CLIPTextConfig(
        vocab_size=60, hidden_size=64, intermediate_size=128, projection_dim=32, num_hidden_layers=2,
        num_attention_heads=2, eos_token_id=50, hidden_act="gelu",
    )  # fmt: skip
    wfvae = models.WFVAEConfig(
        latent_dim=4, base_channels=16, encoder_energy_flow_hidden_size=16, decoder_energy_flow_hidden_size=16,
        temporal_stride=8, t_interpolation="trilinear",
    )  # fmt: skip
    causalvae = models.CausalVAEConfig(hidden_size=32, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1)
    times = np.array([19, 999], np.float32)
    return {
        "suv": (models.SUV, suv, "construct", (video, times, (2, 1, 5, 32), (2, 1, 32))),
        "opensora_t2v": (
            models.OpenSoraT2V, models.OpenSoraConfig(**v1_3), "construct",
            (video, times, (2, 1, 5, 32), None, None, text_mask),
        ),
        "opensora_inpaint": (
            models.OpenSoraInpaint, models.OpenSoraInpaintConfig(**v1_3, vae_scale_factor_t=4), "construct",
            ((2, 12, 2, 8, 8), times, (2, 1, 5, 32), None, None, text_mask),
        ),
        "t5": (
            models.T5Encoder, models.T5Config(vocab_size=50, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2),
            "construct", (ids, np.array([[1] * 7, [1] * 3 + [0] * 4], np.int32)),
        ),
        "clip": (models.CLIPTextModel, clip, "construct", (ids,)),
        "wfvae, encoder": (models.WFVAE, wfvae, "encode_moments", ((1, 3, 9, 16, 16), False, None)),
        "wfvae, decoder": (models.WFVAE, wfvae, "decode_chunk", ((1, 4, 2, 2, 2), None)),
        "causalvae, encoder": (models.CausalVAE, causalvae, "encode_moments", ((1, 3, 5, 16, 16), False, None)),
        "causalvae, decoder": (models.CausalVAE, causalvae, "decode", ((1, 4, 2, 2, 2), False, 2, None)),
    }  # fmt: skip


def small_output(name: str, dtype) -> Tensor:
    """The outputs of a small Cell in PyNative; its weights and inputs depend only on their shapes."""
    kind, config, method, given = small_cells()[name]
    cell = set_precision(kind(config), dtype).set_train(False)
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(0.1 * _noise(parameter.shape)).astype(parameter.dtype))
    inputs = [Tensor(_noise(part)) if _is_shape(part) else part for part in given]
    inputs = [Tensor(part) if isinstance(part, np.ndarray) else part for part in inputs]
    output = getattr(cell, method)(*inputs)
    return output[0] if isinstance(output, tuple) else output


def _is_shape(part) -> bool:
    return isinstance(part, tuple)


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(len(shape)).standard_normal(shape).astype(np.float32)


def write_goldens() -> None:
    """Recompute bringup_goldens.json on CPU. The tests compare the CPU's numbers with upstream's."""
    told = {}
    for name in small_cells():
        values = small_output(name, ms.float32).asnumpy()
        told[name] = {"shape": list(values.shape), "values": [float(f"{value:.6g}") for value in values.reshape(-1)]}
    GOLDENS.write_text(json.dumps(told) + "\n")


class SixBlocks:
    """One guided evaluation of a v1.5 denoiser with six blocks of the released width."""

    def __init__(self):
        config = json.loads((configuration("v1_5") / "transformer" / "config.json").read_text())
        config = config | {"num_layers": BLOCKS, "sparse_n": (1, 2, 1)}
        self.cell = filled(models.SUV, models.SUVConfig.from_upstream(config), ms.bfloat16)
        self.step = ms.jit(_GuidedVelocity(self.cell), jit_level="O0")

    def __call__(self) -> Tensor:
        config, dtype = self.cell.config, ms.bfloat16
        pooled = ops.zeros((2, 1, config.pooled_projection_dim), dtype)
        return self.step(
            ops.zeros((1, config.in_channels, *LATENTS), dtype), None, ops.zeros(2, ms.float32),
            ops.zeros((2, 1, TEXT, config.caption_channels), dtype), pooled, ops.ones((2, 1, TEXT), ms.int32),
            Tensor(8.0, ms.float32), Tensor(0.0, ms.float32), *self.cell.segments(LATENTS, (TEXT, TEXT), TEXT),
        )  # fmt: skip

    def planned(self) -> float:
        """GiB that `mindsora plan` predicts for these blocks' weights and the activations."""
        part = plan("v1_5", CLIP, "910b1")["memory"]["components"]["transformer"]
        return (memory_model.weights(self.cell) + part["activations"]) / GIB


def blocks() -> Iterator[tuple[str, object]]:
    ms.runtime.empty_cache()
    ms.runtime.reset_max_memory_allocated()
    six, repeats = SixBlocks(), 3
    six()
    ms.runtime.synchronize()
    peak, planned = ms.runtime.max_memory_allocated() / GIB, six.planned()
    yield "six v1.5 blocks at 121 x 576 x 1024, GiB at the peak", round(peak, 2)
    yield "as planned", round(planned, 2)
    if peak > PLAN_MARGIN * planned:
        raise Failed(f"{peak:.1f} GiB is more than {PLAN_MARGIN} times the plan's {planned:.1f}")
    start = time.perf_counter()
    for _ in range(repeats):
        six()
    ms.runtime.synchronize()
    seconds = (time.perf_counter() - start) / (repeats * sum(BLOCKS))
    yield "one of them, two rows, bfloat16, seconds", _unless_simulated(round(seconds, 4))


def video() -> Iterator[tuple[str, object]]:
    from mindsora.media import write_clip

    pipe = mindsora.TextToVideoPipeline.from_pretrained("nano")
    pipe.set_progress_bar_config(disable=True)
    frames = pipe("a red circle moving right on a black background", num_inference_steps=4, seed=0).frames[0]
    if not simulated() and not frames.std() > 0:
        raise Failed("every pixel of nano's clip has one value")
    with tempfile.TemporaryDirectory() as folder:
        write_clip([np.nan_to_num(frames * 255).astype(np.uint8)], Path(folder, "clip.mp4"), pipe.index.fps)
        yield "nano's clip, bytes as mp4", _unless_simulated(Path(folder, "clip.mp4").stat().st_size)


STEPS: dict[str, Callable[[], Iterator[tuple[str, object]]]] = {
    step.__name__: step for step in (environment, products, operators, attention, cells, blocks, video)
}


def compare(result: Tensor, expected: np.ndarray, dtype: str) -> float | str:
    """The largest difference as a share of the largest expected number.

    Raises:
        Failed: more than TOLERANCE, or numbers that are not finite.
    """
    if simulated():
        ms.runtime.synchronize()
        return "not computed"
    got = _array(result)
    share = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not share <= TOLERANCE[dtype]:  # also NaN
        raise Failed(f"differs by {share:.2g} of the largest number; {dtype} may by {TOLERANCE[dtype]}")
    return float(f"{share:.2g}")


def _unless_simulated(value):
    return "not computed" if simulated() else value


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.astype(ms.float32).asnumpy().astype(np.float64)


def _random(shape: tuple[int, ...], dtype) -> Tensor:
    return Tensor(_noise(shape)).astype(dtype)
