"""How much an autoencoder loses: PSNR, SSIM, LPIPS and rFVD of reconstructions.

    mindsora evaluate autoencoder --model nano_vae_real --videos DIR --output outputs/autoencoder

Without --videos it reconstructs drawn clips. A protocol says what is compared:

native   every video at its own size, its first frames; the mean of the posterior
paper    33 frames, short side scaled to 256, centre crop 256 x 256, a sample of the posterior (WF-VAE, arXiv 2411.17459)

PSNR, SSIM and LPIPS are means over frames, then over videos. rFVD pools the I3D features of all videos at their full
length. Frames are compared in memory; with --through-codec original and reconstruction are both written as mp4, read
again and compared, as upstream's script does. The two are not comparable with each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from mindsora.data.toy.procedural import FPS, clip
from mindsora.errors import InputError, shown
from mindsora.evaluate.clips import Unreadable
from mindsora.evaluate.evaluation import Asked, Evaluation
from mindsora.evaluate.frechet import FEW, frechet_distance
from mindsora.evaluate.items import Item, videos_of
from mindsora.evaluate.measures import Clip, Judge, Judges, Measure, Row, Score, missing
from mindsora.evaluate.networks import Network
from mindsora.files import file_sha256
from mindsora.jobs.reconstruct import DEFAULT, MAX_FRAMES, fit, load_vae, reconstruct, rules
from mindsora.media import export_to_video, psnr, read_video, ssim, stream_video

DRAWN = 32  # drawn clips, of held-out combinations, where no folder is given
LEAST_SSIM, LEAST_FVD = 11, 10  # pixels of SSIM's window, frames of I3D
I3D_SIDE = 224


@dataclass(frozen=True)
class Protocol:
    """What is compared.

    Attributes:
        frames: the first so many; None for all that are legal, at most MAX_FRAMES.
        side: of the square crop; None for the video's own size.
        sampled: decode a sample of the posterior, not its mean.
    """

    frames: int | None
    side: int | None
    sampled: bool


PROTOCOLS = {"native": Protocol(None, None, False), "paper": Protocol(33, 256, True)}


def sources(asked: Asked) -> Iterator[tuple[Item, np.ndarray, float] | Unreadable]:
    """Item, frames (T, H, W, 3) and fps of every video, or why it cannot be read."""
    if asked.videos is None:
        for number in range(DRAWN):
            frames, caption, _ = clip(number, "heldout")
            yield Item(f"drawn-{number:03d}", (caption,), number), frames, float(FPS)
        return
    for stem, path in videos_of(asked.videos).items():
        item = Item(stem, (stem,))
        try:
            frames, fps = stream_video(path)
            yield item, np.stack(list(islice(frames, MAX_FRAMES))), fps
        except InputError as error:
            yield Unreadable(item, str(error))


def clips(asked: Asked) -> Iterator[Clip | Unreadable]:
    """The reconstruction of every video, with the original as its reference. Both are kept as mp4."""
    protocol = protocol_of(asked)
    model = asked.model or DEFAULT
    legal, vae = rules(model), load_vae(model)
    folder = asked.output / "clips"
    for entry in sources(asked):
        if isinstance(entry, Unreadable):
            yield entry
            continue
        item, frames, fps = entry
        try:
            original = fit(frames, legal, protocol.side, protocol.side, protocol.frames)
        except InputError as error:
            yield Unreadable(item, str(error))
            continue
        result = reconstruct(vae, original, seed=item.seed if protocol.sampled else None)
        folder.mkdir(parents=True, exist_ok=True)
        paths = tuple(folder / f"{item.name}-{what}.mp4" for what in ("original", "reconstruction"))
        for path, video in zip(paths, (original, result), strict=True):
            export_to_video(video, path, fps)
        if asked.options.get("through_codec"):
            original, result = (_decoded(path, original.shape) for path in paths)
        yield Clip(item, result, fps, paths=paths, reference=original)


def protocol_of(asked: Asked) -> Protocol:
    name = asked.options.get("protocol", "native")
    if name not in PROTOCOLS:
        raise InputError(f"protocol {shown(name)}: must be {' or '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _decoded(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The frames of an mp4, without the row or column that H.264 adds to an odd size."""
    return read_video(path)[0][:, : shape[1], : shape[2]]


def measures(judges: Judges) -> tuple[Measure, ...]:
    """PSNR and SSIM; LPIPS and I3D's features where their files are given."""
    return (
        Measure("psnr_db", Judge("PSNR, RGB, peak 1, at most 100 dB"), _psnr, (0.0, 100.0)),
        Measure("ssim", Judge("SSIM, 11 x 11 Gaussian window"), _ssim, (-1.0, 1.0)),
        _lpips(judges),
        _i3d(judges),
    )


def _psnr(clip: Clip) -> float:
    return psnr(clip.frames, clip.reference)


def _ssim(clip: Clip) -> float | None:
    """None for frames smaller than the window."""
    return ssim(clip.frames, clip.reference) if min(clip.frames.shape[1:3]) >= LEAST_SSIM else None


def _lpips(judges: Judges) -> Measure:
    if "lpips" not in judges:
        return missing("lpips", "--judge lpips=alexnet-owt-7be5be79.pth", (0.0, float("inf")))
    from mindsora.media.lpips_alex import LEAST, load_alex

    metric = load_alex(judges["lpips"])
    judge = Judge("LPIPS 0.1, AlexNet", judges["lpips"].name, "model", file_sha256(judges["lpips"]))

    def value(clip: Clip) -> float | None:
        if min(clip.frames.shape[1:3]) < LEAST:
            return None
        return float(np.mean(metric.distances(clip.frames, clip.reference)))

    return Measure("lpips", judge, value, (0.0, float("inf")), higher_is_better=False)


def _i3d(judges: Judges) -> Measure:
    if "i3d" not in judges:
        return missing("rfvd", "--judge i3d=FILE.onnx, I3D with 400 logits", (0.0, float("inf")))
    network = Network(judges["i3d"], "I3D, Kinetics-400 logits")

    def features(clip: Clip) -> np.ndarray | None:
        if len(clip.frames) < LEAST_FVD:
            return None
        return np.stack([network(i3d_input(video)).reshape(-1) for video in (clip.frames, clip.reference)])

    return Measure("rfvd", network.judge, features, (0.0, float("inf")), higher_is_better=False)


def i3d_input(video: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 as I3D takes it: (1, 3, T, 224, 224) float32 in [-1, 1], short side scaled, centre crop."""
    height, width = video.shape[1:3]
    scale = I3D_SIDE / min(height, width)
    size = (max(I3D_SIDE, round(width * scale)), max(I3D_SIDE, round(height * scale)))
    # In float: OpenCV rounds bilinear values of uint8. It aligns pixel edges, not the centres of corner pixels.
    frames = [cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for frame in video]
    top, left = (size[1] - I3D_SIDE) // 2, (size[0] - I3D_SIDE) // 2
    crop = np.stack(frames)[:, top : top + I3D_SIDE, left : left + I3D_SIDE]
    return np.ascontiguousarray((crop / np.float32(127.5) - 1).transpose(3, 0, 1, 2)[None])


def scores(found: tuple[Measure, ...]) -> tuple[Score, ...]:
    """rFVD over all clips, where I3D was given."""
    (measure,) = (measure for measure in found if measure.name == "rfvd")
    if measure.missing:
        return ()
    return (
        Score("rfvd", measure.judge, rfvd, False, bootstrapped=False),
    )  # drawn twice, a clip narrows the covariance


def rfvd(rows: Sequence[Row]) -> float | None:
    """Frechet distance of the reconstructions' features to the originals'; None below two clips."""
    pairs = [row.features["rfvd"] for row in rows if "rfvd" in row.features]
    if len(pairs) < 2:
        return None
    results, originals = np.stack(pairs, axis=1)
    return frechet_distance(originals, results)


def notes(rows: Sequence[Row], asked: Asked) -> list[str]:
    """What every number of this evaluation is told with."""
    protocol = protocol_of(asked)
    posterior = "a sample" if protocol.sampled else "the mean"
    where = "after H.264 (crf 18) of both" if asked.options.get("through_codec") else "in memory"
    size = f"{protocol.side} x {protocol.side}" if protocol.side else "the video's own"
    frames = f"the first {protocol.frames}" if protocol.frames else f"all that are legal, at most {MAX_FRAMES}"
    out = [
        f"protocol {asked.options.get('protocol', 'native')}: frames {frames}; size {size}; {posterior} of the posterior; "
        f"float32, in chunks along time, no spatial tiles; compared {where}"
    ]
    judged = sum("rfvd" in row.features for row in rows)
    if 0 < judged < FEW:
        out.append(f"rFVD of {judged} clips: below {FEW} it depends more on their number than on the model")
    return out


EVALUATION = Evaluation(
    "autoencoder",
    __doc__.splitlines()[0],
    None,
    measures,
    scores,
    judges=("lpips", "i3d"),
    options=("through_codec", "protocol"),
    model=DEFAULT,
    source=clips,
    notes=notes,
)
