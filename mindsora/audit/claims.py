"""What was published about the Open-Sora Plan line, and the command that measures it here."""

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mindsora import zoo
from mindsora.config import read_json
from mindsora.errors import InputError
from mindsora.models import registry
from mindsora.released import released
from mindsora.runtime import Runtime

RECEIPTS = Path(__file__).parents[2] / "benchmarks" / "results"  # of a checkout; an installed package has none
V1_5, V1_3_480P, V1_3_720P = (121, 576, 1024), (93, 480, 640), (93, 720, 1280)  # 480p is read as 480 x 640


@dataclass(frozen=True)
class Asked:
    """What is measured, and how. None means the claim's own model and size, or a named model's default size.

    Attributes:
        video: a clip for vae-psnr.
        quality, semantic: VBench's two groups in percent, for vbench-total.
        repeats: measurements of each kind.
    """

    model: str | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    video: str | None = None
    quality: float | None = None
    semantic: float | None = None
    repeats: int = 3
    runtime: Runtime = field(default_factory=Runtime)

    @property
    def size(self) -> tuple[int | None, int | None, int | None]:
        return self.num_frames, self.height, self.width


@dataclass(frozen=True)
class Claim:
    """A published statement.

    Attributes:
        text: what is claimed.
        source: who published it, and where.
        bounds: the shape and the hardware it holds for.
        arithmetic: what counting operations, bytes or scores allows.
        command: measures it; {model}, {frames}, {height}, {width}, {device} and {video} are the user's.
        measure: what it runs, from a resolved `Asked` to numbers with a `summary`.
        model, size: what the claim is about; measured unless the user names something else.
    """

    name: str
    text: str
    source: str
    bounds: str
    arithmetic: Callable[[], str]
    command: str
    measure: Callable[[Asked], dict]
    model: str = "v1.5"
    size: tuple[int, int, int] = V1_5

    def __post_init__(self):
        if self.command.split()[:3] != ["mindsora", "claims", self.name]:
            raise InputError(f"claim {self.name!r} has no runnable command: {self.command!r}")

    def runnable(self, asked: Asked) -> str:
        """The command with the user's model, shape and device in it."""
        asked = self.resolved(asked)
        frames, height, width = asked.size
        return self.command.format(
            model=shlex.quote(asked.model),
            frames=frames,
            height=height,
            width=width,
            device=asked.runtime.device or "Ascend",
            video=shlex.quote(asked.video or "VIDEO"),
        )

    def resolved(self, asked: Asked) -> Asked:
        """A copy with model, frames, height and width filled in from the claim, or from a named model."""
        model, size = (asked.model, None) if asked.model else (self.model, self.size)
        index = zoo.ModelIndex.read(zoo.configuration(model))
        size = size or (index.num_frames, index.height, index.width)
        frames, height, width = (value or default for value, default in zip(asked.size, size))
        return replace(asked, model=model, num_frames=frames, height=height, width=width)

    def receipt(self) -> str:
        """Our last result, or a statement that there is none."""
        path = RECEIPTS / f"claim_{self.name.replace('-', '_')}.json"
        if not path.is_file():
            return "not measured"
        found = read_json(path)
        return f"{found['summary']} ({found['date']}, {found['machine']['processor']})"


# What counting allows


def sparse_and_dense(model: str, frames: int, height: int, width: int) -> tuple[Counter, Counter]:
    """Operations of one evaluation of a model's denoiser, with its sparsity and with full attention everywhere."""
    folder = zoo.configuration(model)
    index = zoo.ModelIndex.read(folder)
    spec = registry.spec(index.transformer[1])
    config = spec.config.from_upstream(read_json(folder / "transformer" / "config.json"))
    tokens, text = index.shapes.tokens(frames, height, width), index.max_text_lengths[0]
    return tuple(spec.cost.operations(one, tokens, text) for one in (config, spec.cost.dense(config)))


def v1_3_flops(frames: int, height: int, width: int) -> tuple[float, float]:
    """Operations of one evaluation of v1.3's denoiser with n = 4, and with full attention everywhere."""
    sparse, dense = sparse_and_dense("v1.3", frames, height, width)
    return sparse.total(), dense.total()


def _suv_speed() -> str:
    sparse, dense = sparse_and_dense("v1.5", *V1_5)
    whole, attention = dense.total() / sparse.total(), dense["attention"] / sparse["attention"]
    return (
        f"possible: {whole:.2f} times fewer operations ({100 * (1 - 1 / whole):.0f} % less time at equal speed), "
        f"in attention {attention:.2f} times ({100 * (1 - 1 / attention):.0f} % less)"
    )


def _vae() -> str:
    return (
        "no limit: 32 latent channels for 8 x 8 x 8 x 3 values are 1 in 48; what the latents keep has to be "
        "measured, and frames, size, codec and sampling must stand beside the number"
    )


def _cache() -> str:
    images, videos = ((6.53, 4.10), (12.78, 7.81)), ((8.90, 7.78), (17.0, 16.0))
    less = [", ".join(f"{100 * (1 - after / before):.0f} %" for before, after in rows) for rows in (images, videos)]
    return f"its own table gives {less[0]} less for images, but {less[1]} less for videos: it is a figure for images"


def _v1_3_memory() -> str:
    from mindsora.audit.plan import plan

    half = {name: count * 2 / 2**30 for name, count in released("v1.3").parameters.items()}
    parts = ", ".join(f"{name} {gib:.1f}" for name, gib in half.items())
    peak = plan("v1.3", V1_3_480P, "910b2")["memory"]["peak"]
    return (
        f"possible: {sum(half.values()):.1f} GiB of weights in half precision ({parts}), and "
        f"{sum(half.values()) - half['text_encoder']:.1f} once the text is encoded and its encoder is gone; "
        f"with all of them held, the VAE in float32, the planner's model has a peak of {peak / 2**30:.1f} GiB"
    )


def _vbench() -> str:
    return f"agrees: {vbench_total(84.24, 78.18):.3f} from its own 84.24 and 78.18; what is printed is cut off"


def _k4() -> str:
    counted = []
    for size, published in ((V1_3_720P, "2.38"), (V1_3_480P, "1.88")):
        sparse, dense = v1_3_flops(*size)
        shape = " x ".join(map(str, size))
        counted.append(f"{dense / sparse:.2f} times fewer operations at {shape} ({published} published)")
    return (
        f"{', '.join(counted)}: the published ratios need attention that is slower per operation than the rest "
        "(480p read as 480 x 640; the weights are meant for sides up to 640)"
    )


def vbench_total(quality: float, semantic: float) -> float:
    """VBench's total from its two groups of dimensions, in percent."""
    return (4 * quality + semantic) / 5


# What is run


def _measure_suv(asked: Asked) -> dict:
    return _sparse_against_dense(asked, lambda config: config)


def _measure_k4(asked: Asked) -> dict:
    def schedule(config):
        if isinstance(config.num_layers, int):  # v1.3's own
            return config
        blocks = max(6, sum(config.num_layers))
        return replace(config, num_layers=(2, blocks - 4, 2), sparse_n=(1, 4, 1))

    return _sparse_against_dense(asked, schedule)


def _sparse_against_dense(asked: Asked, schedule: Callable) -> dict:
    from mindsora.audit import measure
    from mindsora.audit.memory import build

    folder, index = _model(asked)
    shell = build(folder, None, "CPU")["transformer"]
    found = measure.sparse_against_dense(
        registry.spec_of(shell),
        schedule(shell.config),
        index.shapes.latent(*asked.size),
        index.max_text_lengths[0],
        _dtype(),
        asked.runtime.jit,
        asked.repeats,
    )
    summary = (
        f"{found['less_time_percent']:.0f} % less time than dense, attention alone "
        f"{found['attention_less_time_percent']:.0f} % ({found['tokens']} tokens, one forward pass)"
    )
    return found | {"summary": summary}


def _measure_vae(asked: Asked) -> dict:
    from mindsora.jobs import reconstruct
    from mindsora.media import psnr, read_video

    if asked.video is None:
        raise InputError("claim 'vae-psnr' needs --video, your clip")
    frames, height, width = asked.size
    video, _ = read_video(asked.video, reconstruct.MAX_FRAMES)
    clip = reconstruct.fit(video, reconstruct.rules(asked.model), height, width, frames)
    found = psnr(reconstruct.reconstruct(reconstruct.load_vae(asked.model), clip), clip)
    return {
        "video": Path(asked.video).name,
        "psnr_db": found,
        "summary": f"{found:.2f} dB for one clip of {frames} x {height} x {width} through {Path(asked.model).name}",
    }


def _measure_cache(asked: Asked) -> dict:
    from mindsora.audit import measure
    from mindsora.audit.memory import build

    folder, index = _model(asked)
    shells = build(folder, None, "CPU")
    cells = {name: measure.filled(type(shell), shell.config, _dtype()) for name, shell in shells.items()}
    found = measure.feature_cache(cells, asked.size, index.max_text_lengths, asked.runtime.jit, asked.repeats)
    return found | {"summary": f"{found['less_time_percent']:.0f} % less time for a training step of one clip"}


def _measure_memory(asked: Asked) -> dict:
    from mindsora.audit.measure import pipeline_without_weights
    from mindsora.machine import resident_memory
    from mindsora.manifest import peak_memory

    frames, height, width = asked.size
    before = resident_memory()["now"]
    pipe = pipeline_without_weights(asked.model, asked.runtime.jit)
    pipe.set_progress_bar_config(disable=True)
    pipe(
        prompt="a red fox crossing a frozen river", num_frames=frames, height=height, width=width, num_inference_steps=1
    )
    found = peak_memory()
    peak = found.get("device", found["host"])
    return {
        "peak_bytes": found,
        "host_before_bytes": before,
        "summary": f"peak {peak / 2**30:.2f} GiB of 24 ({'device' if 'device' in found else 'process'} memory)",
    }


def _measure_vbench(asked: Asked) -> dict:
    if asked.quality is None or asked.semantic is None:
        raise InputError("claim 'vbench-total' needs --quality and --semantic, both in percent")
    total = vbench_total(asked.quality, asked.semantic)
    return {
        "quality": asked.quality,
        "semantic": asked.semantic,
        "total": total,
        "summary": f"(4 x {asked.quality:g} + {asked.semantic:g}) / 5 = {total:.3f}",
    }


def _model(asked: Asked) -> tuple[Path, zoo.ModelIndex]:
    folder = zoo.configuration(asked.model)
    return folder, zoo.ModelIndex.read(folder)


def _dtype():
    import mindspore as ms

    return ms.bfloat16 if ms.get_context("device_target") == "Ascend" else ms.float32


_SHAPED = "--model {model} --frames {frames} --height {height} --width {width} --device {device}"
CLAIMS = (
    Claim(
        "suv-speed",
        "SUV is more than 35 % faster than the dense model, its attention more than 45 %",
        "Open-Sora Plan report v1.5.0",
        "121 x 576 x 1024, Ascend 910B",
        _suv_speed,
        f"mindsora claims suv-speed {_SHAPED}",
        _measure_suv,
    ),
    Claim(
        "vae-psnr",
        "WF-VAE 8x8x8 with 32 channels reconstructs at 36.91 dB",
        "Open-Sora Plan report v1.5.0",
        "1,000 open-domain clips; their frames and size are not stated",
        _vae,
        f"mindsora claims vae-psnr --video {{video}} {_SHAPED}",
        _measure_vae,
    ),
    Claim(
        "feature-cache",
        "caching the encoders' features takes 30 % off the training time",
        "Open-Sora Plan feature caching, table of steps",
        "2 B model, 8 A800, batches of 4 to 128, images and videos",
        _cache,
        f"mindsora claims feature-cache {_SHAPED}",
        _measure_cache,
    ),
    Claim(
        "memory-24gb",
        "93 frames of 480p are generated in 24 GB",
        "Open-Sora Plan v1.3.0 release notes",
        "v1.3, 93 x 480p, one GPU",
        _v1_3_memory,
        f"mindsora claims memory-24gb {_SHAPED}",
        _measure_memory,
        "v1.3",
        V1_3_480P,
    ),
    Claim(
        "vbench-total",
        "VBench 83.02 in all = (4 quality + semantic) / 5",
        "Open-Sora Plan report v1.5.0",
        "16 dimensions, quality 84.24, semantic 78.18; prompt form not stated",
        _vbench,
        "mindsora claims vbench-total --quality 84.24 --semantic 78.18",
        _measure_vbench,
    ),
    Claim(
        "skiparse-k4",
        "skiparse with k = 4 brings a step of 93 x 720p from 100 to 42 s, of 93 x 480p from 15 to 8 s",
        "Open-Sora Plan report v1.3.0",
        "v1.3, dense against k = 4; hardware not stated",
        _k4,
        f"mindsora claims skiparse-k4 {_SHAPED}",
        _measure_k4,
        "v1.3",
        V1_3_720P,
    ),
)


def row(claim: Claim, asked: Asked) -> dict[str, str]:
    """A claim as JSON has it."""
    return {
        "name": claim.name,
        "claim": claim.text,
        "source": claim.source,
        "bounds": claim.bounds,
        "arithmetic": claim.arithmetic(),
        "command": claim.runnable(asked),
        "receipt": claim.receipt(),
    }


def find(name: str) -> Claim:
    for claim in CLAIMS:
        if claim.name == name:
            return claim
    raise InputError(f"no claim {name!r}: one of {', '.join(claim.name for claim in CLAIMS)}")


def measured(claim: Claim, asked: Asked) -> dict:
    """Run a claim's measurement under the user's runtime settings. Raises InputError before anything is built."""
    if asked.repeats < 1:
        raise InputError(f"--repeats {asked.repeats}: must be at least 1")
    if claim.measure is not _measure_vbench:
        from mindsora.jobs import reconstruct

        asked = claim.resolved(asked)
        # The autoencoder by itself takes more than the denoiser; only it needs weights, and it reports missing ones.
        shapes = reconstruct.rules(asked.model) if claim.measure is _measure_vae else _model(asked)[1].shapes
        if asked.model == claim.model:  # a published time may be of a size beyond what the weights are meant for
            largest = dict(zip(("max_frames", "max_height", "max_width"), claim.size))
            largest = {name: max(getattr(shapes, name), size) for name, size in largest.items()}
            shapes = replace(shapes, **largest, max_pixels=None)
        shapes.check(*asked.size)  # before anything is built
        asked.runtime.apply()
    return claim.measure(asked)
